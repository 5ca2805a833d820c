"""What every metric asks of its features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgan.errors import UserError

__all__ = ["check_features"]


def check_features(real: Any, fake: Any, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both in float64.

    Raises:
        UserError: where they are not features [N, D] and [M, D], finite, of at least so many samples each.
    """
    for name, features in (("real", real), ("fake", fake)):
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) < least:
            given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"{name} must be features [N, D] of at least {least} samples, but it is {given}; give such ones."
            )
        if not features.isfinite().all():
            raise UserError(f"{name} has features that are not finite; look at the images, or at the extractor.")
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"real has {real.shape[1]} features a sample, but fake has {fake.shape[1]}; give both of one extractor."
        )
    return real.double(), fake.double()
