"""The Frechet distance between two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.metrics._checks import check_features

__all__ = ["frechet_distance"]


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The squared Wasserstein-2 distance of two normal distributions with the features' means and covariances.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), as Heusel et al., 2017, https://arxiv.org/abs/1706.08500, use it. It is
    computed in float64. It depends on the extractor of the features and, for few samples, on their number: compare
    only values with the same of both.

    Args:
        real, fake: features [N, D] and [M, D], each of at least 2 samples, finite.

    Raises:
        UserError: where they are no such tensors.
    """
    real, fake = (features.cpu() for features in check_features(real, fake))
    mean = (real.mean(0) - fake.mean(0)).square().sum()
    first, second = torch.cov(real.T).reshape(2 * [real.shape[1]]), torch.cov(fake.T).reshape(2 * [fake.shape[1]])
    # C1 C2 has the eigenvalues of the symmetric S C2 S with S = C1^(1/2), which unlike its own are found exactly, also
    # where features depend on each other. The trace of a root is the sum of their roots.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float((mean + first.trace() + second.trace() - 2 * shared).clamp_min(0))
