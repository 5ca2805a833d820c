"""Generators and discriminators, built by the name of their family.

generator, discriminator = models.build("dcgan", image_size=(48, 64), channels=3)
images = generator(torch.randn(16, generator.latent_dim))    # [16, 3, 48, 64] in [-1, 1]
logits = discriminator(images)                               # [16]; D(x) = sigmoid(logit)

generator, discriminator = models.build("mlp", image_size=28, channels=1, num_classes=10)
images = generator(latent, labels)                           # and discriminator(images, labels)

generator, discriminator = models.build("encoder_decoder", image_size=64)
images = generator(source)                                   # and discriminator(images, source)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from fastgan.errors import UserError

from ._conditional import ConditionalBatchNorm
from ._fold import folded
from ._shapes import check_image_size, check_whole
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .encoder_decoder import EncoderDecoder, PatchDiscriminator
from .lenet import LeNetDiscriminator
from .mlp import MLPDiscriminator, MLPGenerator

__all__ = [
    "FAMILIES",
    "ConditionalBatchNorm",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "EncoderDecoder",
    "LeNetDiscriminator",
    "MLPDiscriminator",
    "MLPGenerator",
    "PatchDiscriminator",
    "arguments_of",
    "build",
    "check",
    "folded",
]


class Family(NamedTuple):
    """The two networks of a family; each names the arguments it takes of :func:`build`."""

    generator: type[nn.Module]
    discriminator: type[nn.Module]


FAMILIES = {
    "dcgan": Family(DCGANGenerator, DCGANDiscriminator),
    "mlp": Family(MLPGenerator, MLPDiscriminator),
    "lenet": Family(DCGANGenerator, LeNetDiscriminator),
    "encoder_decoder": Family(EncoderDecoder, PatchDiscriminator),
}


def build(
    family: str,
    *,
    image_size: int | tuple[int, int] = 64,
    channels: int = 3,
    latent_dim: int = 100,
    width: int = 64,
    num_classes: int = 0,
    spectral_norm: bool = False,
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """A new generator and discriminator of a family, with the start weights of its paper.

    Args:
        family: "dcgan" (convolutions), "mlp" (full connections, the first GAN's), "lenet" (dcgan's generator against a
            LeNet) or "encoder_decoder" (image to image).
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        latent_dim: length of the latent vectors, where the family has such.
        width: feature maps of the layer next to the image; the other layers have multiples of it.
        num_classes: the classes that images are made by, or 0. Then the networks take labels, int64 [N], as their
            second argument.
        spectral_norm: whether the weights of the discriminator's convolutions and linear layers are divided by their
            spectral norm (Miyato et al., 2018, https://arxiv.org/abs/1802.05957).
        options: dcgan: ``head``, "conv" (default) or "linear"; lenet: ``pooling``, "max" (default) or "average", and
            ``head``; encoder_decoder: ``in_channels`` (as ``channels``) and ``skips`` (True).

    Returns:
        The generator, [N, latent_dim] -> images [N, channels, H, W] in [-1, 1], and the discriminator, images ->
        logits [N]. Those of encoder_decoder: source [N, in_channels, H, W] -> images, and (images, source) -> logits of
        patches [N, 1, h, w].

    Raises:
        UserError: for an unknown family, or values that its networks cannot be made of.
    """
    check(family, image_size)
    check_whole("latent_dim", latent_dim)
    check_whole("width", width)
    networks = FAMILIES[family]
    known = {*networks.generator.arguments, *networks.discriminator.arguments}
    if num_classes:
        options["num_classes"] = num_classes
    for name, value in options.items():
        if name not in known:
            optional = sorted(known - {"image_size", "channels", "latent_dim", "width"})
            raise UserError(
                f"model {family!r} takes no {name} (given: {value!r}); leave it out, its own are {', '.join(optional)}."
            )
    options |= {"image_size": image_size, "channels": channels, "latent_dim": latent_dim, "width": width}
    generator, discriminator = (
        network(**{name: options[name] for name in network.arguments if name in options}) for network in networks
    )
    generator.family = discriminator.family = family  # a class may be in two
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


def arguments_of(network: nn.Module) -> dict[str, Any] | None:
    """The arguments with which :func:`build` makes such a network again; None for one that is not of a family."""
    if type(network) not in {network for family in FAMILIES.values() for network in family}:
        return None
    arguments = {name: getattr(network, name) for name in ("family", *network.arguments)}
    return arguments | ({"spectral_norm": True} if hasattr(network, "spectral_norm") else {})
