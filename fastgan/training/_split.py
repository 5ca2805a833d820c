"""Real and generated images through the discriminator: in one launch where that is the same as two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.layers import _gate
from fastgan.layers._chain import is_sequential
from fastgan.layers._groups import batch_groups, last_launches, why_apart
from fastgan.layers._plan import CONVOLUTIONS
from fastgan.models._conditional import Discriminator

__all__ = ["judge_together", "judges_together"]


def judges_together(discriminator: nn.Module) -> bool:
    """Whether one launch will do; :func:`fastgan.explain` can say why not from now on.

    On one core of an AMD EPYC with AVX512-BF16, forward and backward of the DCGAN discriminator in one launch take 0.97
    (bfloat16) and 0.99 (float32) of two launches' time for 64 real and 64 generated images of 64x64, 0.88 and 0.84 for
    16 of each, and 0.88 for 32 of each of 32x32 at width 32.
    """
    reason = why_apart(discriminator)
    last_launches[discriminator] = (
        "Real and generated images went through it in one launch, batch-norm's statistics apart."
        if reason is None
        else f"Real and generated images went through it in two launches, because {reason}."
    )
    return reason is None


def judge_together(discriminator: nn.Module, real: Tensor, fake: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    """What the discriminator says of real and of generated images; batch-norm counts the real ones first.

    ``given``: what it sees beside both, such as their labels.
    """
    joined = torch.cat([_as_read(discriminator, real, fake.dtype), fake])
    if not _gate.is_open(joined):  # subclasses of Tensor do not get to the kernels that keep statistics apart
        return discriminator(real, *given), discriminator(fake, *given)
    with batch_groups(2):
        output = discriminator(joined, *(torch.cat([tensor, tensor]) for tensor in given))
    return output.chunk(2)  # not tensor_split, whose gradients are two padded halves, added


def _as_read(discriminator: nn.Module, real: Tensor, dtype: torch.dtype) -> Tensor:
    """Real images in generated ones' ``dtype``, where autocast would cast them to it as soon as they are joined."""
    device = real.device.type
    if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != dtype:
        return real
    module: nn.Module | None = discriminator
    while isinstance(module, Discriminator) or is_sequential(module):
        module = module.main if isinstance(module, Discriminator) else next(iter(module), None)
    return real.to(dtype) if type(module) in CONVOLUTIONS else real
