"""Where a generator's latent vectors come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastgan.errors import UserError

__all__ = ["Latent", "LatentSource", "latent_shape"]

Latent = int | Sequence[int] | Callable[[int], Tensor] | None

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class LatentSource:
    """Draws batches of latents z ~ N(0, 1), or whatever a callable of one's own draws.

    Args:
        generator: tells the shape where ``latent`` is None, and the device and dtype.
        latent: the shape of one latent, such as 100 or (100, 1, 1); or a callable, batch size -> [N, ...]; or None, see
            :func:`latent_shape`.

    Raises:
        UserError: where ``latent`` is None and the generator does not tell.
    """

    def __init__(self, generator: nn.Module, latent: Latent = None) -> None:
        self._draw = latent if callable(latent) else None
        self._shape = () if callable(latent) else latent_shape(generator, latent)
        self._like = next(generator.parameters(), torch.empty(0))

    def __call__(self, batch_size: int, rng: torch.Generator | None = None) -> Tensor:
        """[batch_size, ...], from torch's default generator, or from ``rng``, a generator on the CPU.

        From ``rng`` row after row is drawn, so that the first ones do not depend on how many there are.
        """
        device, dtype = self._like.device, self._like.dtype
        if self._draw is not None:
            return self._draw(batch_size).to(device)
        if rng is None:
            return torch.randn(batch_size, *self._shape, device=device, dtype=dtype)
        rows = [torch.randn(self._shape, generator=rng) for _ in range(batch_size)]
        return torch.stack(rows).to(device, dtype)


def latent_shape(generator: nn.Module, latent: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """The shape of one latent: ``latent``, or else as ``generator.latent_dim`` or its first layer's input size say.

    A generator that begins with a transposed convolution takes (Z, 1, 1), one with a linear layer (Z,).

    Raises:
        UserError: where nothing tells it, or ``latent`` is no shape.
    """
    if latent is not None:
        shape = (latent,) if isinstance(latent, int) else tuple(latent)
        if not shape or not all(isinstance(n, int) and n >= 1 for n in shape):
            raise UserError(f"latent must be a shape such as 100 or (100, 1, 1), or a callable, but it is {latent!r}.")
        return shape
    first = next((m for m in generator.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, *_TRANSPOSED))), None)
    size = getattr(generator, "latent_dim", None)
    if isinstance(first, _TRANSPOSED):
        spatial = len(first.kernel_size)
        return (size or first.in_channels, *(1,) * spatial)
    if isinstance(first, nn.Linear) or size is not None:
        return (size or first.in_features,)
    raise UserError(
        f"the generator {type(generator).__name__} has no latent_dim and does not begin with a linear layer or a transposed "
        "convolution; give latent, the shape of one latent such as (100, 1, 1), or a callable that draws a batch."
    )
