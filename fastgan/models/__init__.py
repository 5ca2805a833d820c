"""Generators and discriminators, built by the name of their family.

generator, discriminator = models.build("dcgan", image_size=(48, 64), channels=3)
images = generator(torch.randn(16, generator.latent_dim))    # [16, 3, 48, 64] in [-1, 1]
logits = discriminator(images)                               # [16]; D(x) = sigmoid(logit)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fastgan.errors import UserError

from ._shapes import check_image_size
from .dcgan import DCGANDiscriminator, DCGANGenerator

__all__ = ["FAMILIES", "DCGANDiscriminator", "DCGANGenerator", "arguments_of", "build", "check"]


def _dcgan(
    image_size: int | tuple[int, int], channels: int, latent_dim: int, width: int
) -> tuple[nn.Module, nn.Module]:
    return DCGANGenerator(image_size, channels, latent_dim, width), DCGANDiscriminator(image_size, channels, width)


FAMILIES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {"dcgan": _dcgan}


def build(
    family: str,
    *,
    image_size: int | tuple[int, int] = 64,
    channels: int = 3,
    latent_dim: int = 100,
    width: int = 64,
    spectral_norm: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """A new generator and discriminator of a family, with the start weights of its paper.

    Args:
        family: "dcgan".
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        latent_dim: length of the latent vectors.
        width: feature maps of the layer next to the image.
        spectral_norm: whether the weights of the discriminator's convolutions and linear layers are divided by their
            spectral norm (Miyato et al., 2018, https://arxiv.org/abs/1802.05957).

    Returns:
        The generator, [N, latent_dim] -> images [N, channels, H, W] in [-1, 1], and the discriminator, images ->
        logits [N].

    Raises:
        UserError: for an unknown family, or values that its networks cannot be made of.
    """
    check(family, image_size)
    for name, value in (("latent_dim", latent_dim), ("width", width)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, but it is {value!r}.")
    generator, discriminator = FAMILIES[family](image_size, channels, latent_dim, width)
    if spectral_norm:
        generator.spectral_norm = discriminator.spectral_norm = True
        for module in list(discriminator.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.utils.parametrizations.spectral_norm(module)
    return generator, discriminator


def check(family: str, image_size: int | tuple[int, int]) -> None:
    """Raises a UserError for an unknown family, or a size that its networks do not make."""
    if family not in FAMILIES:
        raise UserError(f"model {family!r} is unknown; choose one of: {', '.join(FAMILIES)}.")
    check_image_size(image_size)


def arguments_of(generator: nn.Module) -> dict[str, Any]:
    """The arguments with which :func:`build` makes a generator of its own again."""
    names = ("family", "image_size", "channels", "latent_dim", "width")
    arguments = {name: getattr(generator, name) for name in names}
    return arguments | ({"spectral_norm": True} if hasattr(generator, "spectral_norm") else {})
