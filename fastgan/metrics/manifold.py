"""Two sets of features as clouds of points: does the one lie in the other, and fill it?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.errors import UserError
from fastgan.metrics._checks import check_features

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "nearest_index", "precision_recall"]

AT_ONCE = 2**23  # distances in float64, 64 MiB


class PrecisionRecall(NamedTuple):
    """What :func:`precision_recall` returns."""

    precision: float
    """The share of fake samples that look real."""
    recall: float
    """The share of real samples that could be fake ones."""


class DensityCoverage(NamedTuple):
    """What :func:`density_coverage` returns."""

    density: float
    """How densely real samples lie around the fake ones: 1 on average where both are of one distribution."""
    coverage: float
    """The share of real samples that have a fake one near."""


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al., 2019, https://arxiv.org/abs/1904.06991).

    A sample is in a set where it is no farther from any member than this is from its k-th nearest other member. Compare
    only values of one number of samples. It is computed in float64, from at most 64 MiB of distances at once.

    Args:
        real, fake: features [N, D] and [M, D], finite, each of more than k samples.

    Raises:
        UserError: where they are no such tensors.
    """
    real, fake = _checked(real, fake, k)
    return PrecisionRecall(_share_inside(fake, real, k), _share_inside(real, fake, k))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al., 2020, https://arxiv.org/abs/2002.09797), which single outliers sway less.

    Both count the fake samples inside of the balls that reach from each real sample to its k-th nearest other one:
    density, how many balls a fake sample is in, as a share of k; coverage, how many balls have a fake one in them.

    Args:
        real, fake: features [N, D] and [M, D], finite, each of more than k samples.

    Raises:
        UserError: where they are no such tensors.
    """
    real, fake = _checked(real, fake, k)
    radius = _radius(real, k)
    inside = total = 0
    for rows, distance in _distances(real, fake):
        hits = distance < radius[rows, None]
        total += int(hits.sum())
        inside += int(hits.any(1).sum())
    return DensityCoverage(total / (k * len(fake)), inside / len(real))


def nearest_index(queries: Tensor, known: Tensor) -> Tensor:
    """int64 [N]: for each of queries [N, D] the nearest of known [M, D]."""
    return torch.cat([distance.argmin(1) for _, distance in _distances(*check_features(queries, known, 1))])


def _checked(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise UserError(f"k must be a whole number of at least 1, but it is {k!r}; give another one.")
    return check_features(real, fake, k + 1)


def _share_inside(queries: Tensor, members: Tensor, k: int) -> float:
    radius = _radius(members, k)
    return sum(int((distance <= radius).any(1).sum()) for _, distance in _distances(queries, members)) / len(queries)


def _radius(members: Tensor, k: int) -> Tensor:
    """float64 [N]: from each to its k-th nearest other one."""
    # The nearest of all is the sample itself, at exactly 0.
    return torch.cat([distance.kthvalue(k + 1, dim=1).values for _, distance in _distances(members, members)])


def _distances(queries: Tensor, members: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the distances [N, M], and which ones they are."""
    rows = max(1, AT_ONCE // len(members))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        # Not by a matrix product, whose rounding is larger than the distance of samples that are the same.
        yield part, torch.cdist(queries[part], members, compute_mode="donot_use_mm_for_euclid_dist")
