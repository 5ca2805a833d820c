"""Several batches in one launch: every image by itself, and batch-norm's statistics apart for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import Module

from fastgan.layers import _fuse, _gate
from fastgan.layers._blocks import FusedBlock
from fastgan.layers._chain import groups, is_sequential
from fastgan.layers._modules import BatchNorm2d
from fastgan.layers._plan import ACTIVATIONS, CONVOLUTIONS, NORMS

# Only these exact types: a subclass may compute something else.
_PER_SAMPLE = {
    *CONVOLUTIONS,
    *ACTIVATIONS,
    *(nn.Linear, nn.Flatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample, nn.ZeroPad2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.PReLU, nn.GroupNorm, nn.LayerNorm),
}

last_launches: WeakKeyDictionary[Module, str] = WeakKeyDictionary()
"""How a model last judged two batches, in a sentence for :func:`fastgan.explain`."""


@contextmanager
def batch_groups(count: int) -> Iterator[None]:
    """Inside, fused batch-norms take their statistics apart for each of ``count`` equal parts of the batch.

    Only for models of which :func:`why_apart` knows nothing against it: every other batch-norm would mix the parts.
    """
    before, groups.count = groups.count, count
    try:
        yield
    finally:
        groups.count = before


def why_apart(model: Module) -> str | None:
    """Why a model has to be called on each batch by itself; None where one call on all of them, joined, is the same."""
    if _gate.has_global_hooks():
        return "hooks on every module are registered"
    return _why_apart(model, False, set())


def _why_apart(module: Module, in_chain: bool, norms: set[Module]) -> str | None:
    kind = type(module).__name__
    if _gate.has_hooks(module) or module._compiled_call_impl is not None:
        return f"{kind} has a hook or a replaced forward"
    if "parametrizations" in module._modules:
        return f"{kind} makes its weight anew in every call"
    if type(module) in NORMS:
        return _why_norm_apart(module, in_chain, norms)
    if is_sequential(module):
        in_chain = in_chain or _runs_chains(module)
    elif isinstance(module, FusedBlock):
        if module.members() is None:
            return f"the children of {kind} cannot be fused"
        in_chain = True
    elif getattr(module, "per_sample", False):
        in_chain = False
    elif type(module) not in _PER_SAMPLE or getattr(module, "start_dim", 1) == 0:
        return f"{kind} is not known to treat every image by itself"
    # Not `children()`, which leaves out a module's second place.
    reasons = (_why_apart(child, in_chain, norms) for child in module._modules.values() if child is not None)
    return next((reason for reason in reasons if reason is not None), None)


def _why_norm_apart(norm: Module, in_chain: bool, norms: set[Module]) -> str | None:
    kind = type(norm).__name__
    if not in_chain and not isinstance(norm, BatchNorm2d):
        return f"{kind} does not run fused"
    if norm.momentum is None:
        return f"{kind} weighs every batch by their number (momentum=None)"
    if norm in norms:
        return f"{kind} is called more than once"
    norms.add(norm)
    return None


def _runs_chains(sequential: Module) -> bool:
    return type(sequential).forward is not torch.nn.Sequential.forward or _fuse.is_fused(sequential)
