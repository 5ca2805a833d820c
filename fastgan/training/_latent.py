"""What a generator eats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastgan.errors import UserError

__all__ = ["Latent", "LatentSpec", "latent_shape", "resolve_latent"]

LatentSpec = int | Sequence[int] | Callable[[int], Tensor] | None
Latent = Callable[[int], Tensor]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def resolve_latent(latent: LatentSpec, generator: nn.Module) -> Latent:
    """A function from the batch size to latents drawn from N(0, 1), in the generator's dtype and on its device.

    Args:
        latent: the shape of one latent (a whole number n for [n]), or such a function itself, or None: then the shape
            is ``generator.latent_dim`` (also a number or a shape), or else what the generator's first layer takes.

    Raises:
        UserError: where nothing says the shape.
    """
    if callable(latent):
        return latent
    if latent is None and getattr(generator, "takes_images", False):
        return _draw_no_images
    shape = latent_shape(generator) if latent is None else _checked("latent", latent)

    def draw(batch_size: int) -> Tensor:
        weight = first_weight(generator)  # asked at every call: the generator may have moved
        return torch.randn(batch_size, *shape, dtype=weight.dtype, device=weight.device)

    return draw


def _draw_no_images(batch_size: int) -> Tensor:
    raise UserError("the generator makes images of images, which nobody can draw; give the step those as latent.")


def latent_shape(generator: nn.Module) -> tuple[int, ...]:
    """The shape of one latent of ``generator``, see :func:`resolve_latent`."""
    layer = next(
        (module for module in generator.modules() if next(module.parameters(recurse=False), None) is not None), None
    )
    declared = getattr(generator, "latent_dim", None)
    if declared is not None:
        shape = _checked("generator.latent_dim", declared)
        if isinstance(layer, _TRANSPOSED) and len(shape) == 1 and not _takes(generator, shape):
            return shape + (1,) * len(layer.kernel_size)
        return shape
    if isinstance(layer, _TRANSPOSED):
        return (layer.in_channels,) + (1,) * len(layer.kernel_size)
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    raise UserError(
        f"latent is not given, and the generator {type(generator).__name__} has neither a latent_dim nor a first layer "
        "that tells its input's size (Linear, ConvTranspose); give latent a shape such as (100, 1, 1), or a function "
        "from the batch size to latents."
    )


def first_weight(module: nn.Module) -> Tensor:
    """A floating-point tensor of the module's state, which tells its dtype and device; an empty one if it has none."""
    tensors = (tensor for group in (module.parameters(), module.buffers()) for tensor in group)
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _checked(name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    is_shape = isinstance(sizes, (tuple, list)) and len(sizes) > 0
    if not is_shape or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes):
        raise UserError(
            f"{name} must be a whole number or a shape such as (100, 1, 1), but it is {shape!r}; give one of them."
        )
    return tuple(sizes)


@torch.no_grad()
def _takes(generator: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the generator runs on a batch of one latent of this shape; in eval mode, where nothing is counted or
    drawn.

    A transposed convolution comes first in generators that reshape their input and in those that do not, and only a try
    tells them apart.
    """
    modes = [(module, module.training) for module in generator.modules()]
    weight = first_weight(generator)
    try:
        generator.eval()
        generator(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device))
    except Exception:  # its own code, which may raise anything
        return False
    finally:
        for module, training in modes:
            module.training = training
    return True
