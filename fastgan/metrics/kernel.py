"""The kernel distance between two sets of features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UserError
from fastgan.metrics._checks import check_features

__all__ = ["KernelDistance", "kernel_distance"]


class KernelDistance(NamedTuple):
    """What :func:`kernel_distance` returns."""

    mean: float
    """The distance: 0 on average for samples of one distribution, so it may be a little below."""
    deviation: float
    """Its standard deviation from subset to subset."""


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The squared maximum mean discrepancy with the kernel (x y / D + 1)^3, unbiased, over random subsets.

    On Inception's features this is the KID of Binkowski et al., 2018, https://arxiv.org/abs/1801.01401. Unlike the
    Frechet distance it does not get larger the fewer samples there are. It is computed in float64.

    Args:
        real, fake: features [N, D] and [M, D], finite.
        subsets: how many random subsets of each.
        subset_size: samples of each subset, at least 2.
        seed: of the choice.

    Raises:
        UserError: where they are no such tensors, or have fewer samples than a subset.
    """
    if subsets < 1 or subset_size < 2:
        raise UserError(
            f"there must be at least 1 subset of 2 samples, but it is {subsets} of {subset_size}; give more."
        )
    real, fake = check_features(real, fake, subset_size)
    random = np.random.default_rng(seed)
    values = torch.stack([_mmd(*(_some(random, each, subset_size) for each in (real, fake))) for _ in range(subsets)])
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


def _some(random: np.random.Generator, features: Tensor, n: int) -> Tensor:
    return features[torch.from_numpy(random.permutation(len(features))[:n]).to(features.device)]


def _mmd(real: Tensor, fake: Tensor) -> Tensor:
    n = len(real)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(real, real), _kernel(fake, fake)))
    return within / (n * (n - 1)) - 2 * _kernel(real, fake).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    dot = (x @ y.T).div_(x.shape[1]).add_(1)
    return dot.square().mul_(dot)  # pow(3) takes several times as long
