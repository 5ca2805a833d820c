"""Real and generated images through the discriminator: in one launch where that is the same as two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.layers import _gate
from fastgan.layers._groups import batch_groups, last_launches, why_apart

__all__ = ["judge_together", "judges_together"]


def judges_together(discriminator: nn.Module) -> bool:
    """Whether one launch will do; :func:`fastgan.explain` can say why not from now on.

    One launch was never slower than two: on one core of an AMD EPYC with AVX512-BF16, forward and backward of the DCGAN
    discriminator take 0.995 to 1.0 of the time for 64 images of 64x64 each (bfloat16 and float32), and 0.82 to 0.89 for
    32 images of 32x32 at width 32 and for 8 of 32x32 at width 16.
    """
    reason = why_apart(discriminator)
    last_launches[discriminator] = (
        "Real and generated images went through it in one launch, batch-norm's statistics apart."
        if reason is None
        else f"Real and generated images went through it in two launches, because {reason}."
    )
    return reason is None


def judge_together(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """What the discriminator says of real and of generated images; batch-norm counts the real ones first."""
    joined = torch.cat([real, fake])
    if not _gate.is_open(joined):  # subclasses of Tensor do not get to the kernels that keep statistics apart
        return discriminator(real), discriminator(fake)
    with batch_groups(2):
        output = discriminator(joined)
    return output.tensor_split(2)
