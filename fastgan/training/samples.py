"""Latents from a seed, and the images that a generator makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.training._latent import first_weight

__all__ = ["draw_latents", "generate"]


def draw_latents(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 [n, *shape] from N(0, 1): row i depends on the seed and i alone, whatever n is."""
    # NumPy fills element after element, so that a longer draw begins with a shorter one; torch's vectorised one does
    # not.
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, *shape), dtype=np.float32))


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, batch_size: int = 64, labels: Tensor | None = None) -> Tensor:
    """The images of latents [N, ...]: float32 [N, C, H, W] on the CPU, made ``batch_size`` at a time.

    ``labels``, int64 [N], go to a generator that has classes. The generator runs in the mode that it is in.
    """
    weight = first_weight(generator)
    parts = [latents.to(weight.device, weight.dtype).split(batch_size)]
    if labels is not None:
        parts.append(labels.to(weight.device).split(batch_size))
    return torch.cat([generator(*part).float().cpu().contiguous() for part in zip(*parts, strict=True)])
