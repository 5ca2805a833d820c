"""Gradients by torch's own operators, where a native backward would not do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def is_asked_for(grad_output: Tensor) -> bool:
    """Whether a backward has to be made of torch's operators: with create_graph=True, or with is_grads_batched=True."""
    if torch.is_grad_enabled():
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad_output)


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor | None], needs: Sequence[bool], grad_output: Tensor
) -> list[Tensor | None]:
    """The gradients of ``function(*tensors)`` where they are needed, which can be differentiated under create_graph."""
    creates_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: gradients stop at them, and second gradients flow on through them to the caller's tensors. Not by
        # view_as, which gives dimensions of size one other strides: torch's backward of batch-norm trusts strides.
        alias = torch.ops.aten.alias.default
        aliases = [alias(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        wanted = [t for t, need in zip(aliases, needs, strict=True) if need]
        output = function(*aliases)
        found = torch.autograd.grad(output, wanted, grad_output, create_graph=creates_graph, allow_unused=True)
    return where_needed(needs, found)


def where_needed(needs: Sequence[bool], found: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Gradients where they are needed, in order, and None elsewhere."""
    left = iter(found)
    return [next(left) if need else None for need in needs]
