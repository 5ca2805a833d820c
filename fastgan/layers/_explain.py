"""``explain``: a row a layer: what runs fused, on which kernel, what does not and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import Module

from fastgan.errors import UserError
from fastgan.layers import _chain, _fuse, _groups, _torchs
from fastgan.layers._blocks import FusedBlock
from fastgan.layers._chain import Place, Step, chains, flatten, is_sequential
from fastgan.layers._losses import BCELoss, BCEWithLogitsLoss
from fastgan.layers._modules import BatchNorm2d
from fastgan.layers._plan import family_of, why_not
from fastgan.layers._sequential import Sequential
from fastgan.layers._trace import segments_of
from fastgan.layers._values import CannotFuse

_LOSSES = (torch.nn.BCELoss, torch.nn.BCEWithLogitsLoss)


class Row(NamedTuple):
    """What :func:`explain` says of one layer."""

    layer: str
    """Its name in the model."""
    type: str
    fused: bool
    engine: str
    """The kernels that it ran on, ``torch``, or ``not run yet``."""
    reason: str
    """With which blocks it runs, or why it runs by itself."""


class Explanation(tuple[Row, ...]):
    """The rows; ``print`` shows them as a table, with ``note`` below."""

    note: str = ""
    """Of a discriminator that a step has trained: whether it judges in one launch, or why not."""

    def __str__(self) -> str:
        table = [("layer", "type", "fused", "engine", "reason")]
        table += [(r.layer, r.type, "yes" if r.fused else "no", r.engine, r.reason) for r in self]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
            for row in table
        ]
        return "\n".join(lines + [self.note] * bool(self.note))

    __repr__ = __str__


class _Plan(NamedTuple):
    fused: bool
    reason: str


def explain(model: Module, *inputs: Any) -> Explanation:
    """Says how a model's layers run: which of them fused, on which kernels, and the others why not.

    Args:
        model: any module; only what it holds of layers that fastgan knows, and losses, gets a row.
        inputs: the model is run on them once, without gradients, and its buffers and the random numbers are left as
            they were. Without inputs the rows tell of the last run; of one that is torch's, of the first on such an
            input, since fastgan looks at no other.

    Returns:
        A tuple of :class:`Row`, in the order of ``model.named_modules()``.

    Raises:
        UserError: if ``model`` is not a module.
    """
    if not isinstance(model, Module):
        raise UserError(f"explain takes a torch.nn.Module, and got {type(model).__name__}; give it the model.")
    if inputs:
        _run_once(model, inputs)
    plans: dict[Module, _Plan] = {}
    for container in model.modules():
        for module, plan in _plans(container):
            plans.setdefault(module, plan)  # a Sequential inside another is part of the outer one
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, _LOSSES):
            rows.append(_loss_row(name or "(model)", module))
        elif _is_layer(name, module):
            plan = plans.get(module) or _Plan(*_alone(module))
            rows.append(_row(name or "(model)", module, plan, bool(inputs)))
    explanation = Explanation(rows)
    explanation.note = _groups.last_launches.get(model, "")
    return explanation


def _is_layer(name: str, module: Module) -> bool:
    """Whether a module computes something itself; what makes a parameter does so for another."""
    parts = name.split(".")
    return "parametrizations" not in parts and not module._modules.keys() - {"parametrizations"}


def _row(name: str, module: Module, plan: _Plan, has_run: bool) -> Row:
    kind = type(module).__name__
    place = _chain.last_run.get(module)
    if place is None:
        if not has_run:
            return Row(name, kind, plan.fused, "not run yet", plan.reason)
        missed = "it was not called, or not with plain tensors"
        return Row(name, kind, False, "torch", missed if plan.fused else plan.reason)
    said = f"block {place.block} of {place.blocks} of a run" if place.blocks > 1 else "a run of one block"
    if place.why_torch is not None:
        return Row(name, kind, False, "torch", f"{said}, by torch's kernels: {place.why_torch.rstrip('.')}")
    return Row(name, kind, True, _engine_of(module, place), said)


def _engine_of(module: Module, place: Place) -> str:
    """The kernels that served a layer: of a convolution those of every pass that it ran, of the others the forward.

    Where there is a batch-norm, it holds the activation; and the block after it is where it is applied.
    """
    if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
        op = "conv_transpose_bn_act/" if module.transposed else "conv_bn_act/"
        ran = [kernel.removeprefix(op) for kernel in place.kernels.of(place.block - 1) if kernel.startswith(op)]
        return op + ", ".join(ran) if ran else "native"
    stem = "batch_norm_act/forward" if place.has_norm else "activation/forward"
    ran = (kernel for block in range(place.block - 1, place.blocks) for kernel in place.kernels.of(block))
    return next((kernel for kernel in ran if kernel.startswith(stem)), "native")


def _loss_row(name: str, module: Module) -> Row:
    ours = isinstance(module, (BCELoss, BCEWithLogitsLoss)) and not _fuse.is_unfused(module)
    reason = "one kernel" if ours else "fastgan.layers has this loss as one kernel"
    if isinstance(module, torch.nn.BCELoss):
        reason += "; BCEWithLogitsLoss, on a discriminator without its Sigmoid, is the more exact choice"
    return Row(name, type(module).__name__, ours, "bce" if ours else "torch", reason)


def _run_once(model: Module, inputs: tuple[Any, ...]) -> None:
    for module in model.modules():
        _chain.last_run.pop(module, None)
    _torchs.forget(model.modules())
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(), torch.no_grad():
        try:
            model(*inputs)
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


# ---- what is to be expected, without a run --------------------------------------------------------------------------


def _plans(container: Module) -> Iterator[tuple[Module, _Plan]]:
    """What becomes of the layers that a module calls."""
    if is_sequential(container):
        if _fuse.is_fused(container) or (isinstance(container, Sequential) and not _fuse.is_unfused(container)):
            yield from _sequential_plans(container)
        else:
            unfused = "it was unfused" if _fuse.is_unfused(container) else "its Sequential is torch.nn's"
            yield from _children_plans(container, f"{unfused}; fastgan.fuse fuses it")
    elif isinstance(container, FusedBlock):
        fused, reason = _alone(container)
        yield from ((child, _Plan(fused, reason)) for child in container.children())
    elif _fuse.calls_children(container):
        yield from _own_forward_plans(container)


def _own_forward_plans(container: Module) -> Iterator[tuple[Module, _Plan]]:
    kind = type(container).__name__
    try:
        segments = segments_of(container)
    except CannotFuse as reason:
        yield from _children_plans(container, f"{kind}'s own forward calls it, and keeps doing so, because {reason}")
        return
    if not _fuse.is_fused(container):
        yield from _children_plans(container, f"{kind}'s own forward calls it; fastgan.fuse fuses it")
    elif doubt := _fuse.doubt_of(container):
        yield from _children_plans(container, f"{kind}'s own forward calls it, and keeps doing so, because {doubt}")
    else:
        for segment in segments:
            yield from _sequential_plans(segment)
        yield from _children_plans(container, f"{kind}'s forward does not call it next to what it could be fused with")


def _children_plans(container: Module, reason: str) -> Iterator[tuple[Module, _Plan]]:
    for child in container.children():
        alone = isinstance(child, (BatchNorm2d, FusedBlock))  # they run fused by themselves
        yield child, _Plan(*_alone(child)) if alone else _Plan(False, reason)


def _sequential_plans(modules: Iterable[Step]) -> Iterator[tuple[Module, _Plan]]:
    before: Step | None = None
    for part in chains(list(flatten(modules))):
        if isinstance(part, list):
            for position, members in enumerate(part, 1):
                place = f"block {position} of {len(part)} of a run" if len(part) > 1 else "a run of one block"
                for module in members.modules():
                    yield module, _Plan(True, place)
                    before = module
        else:
            yield part, _Plan(*_alone(part, before))
            before = part


def _alone(module: Step, before: Step | None = None) -> tuple[bool, str]:
    """Whether a module that no chain holds runs on a kernel of its own, and why it is by itself."""
    if isinstance(module, Module) and _fuse.is_unfused(module):
        return False, "it was unfused; fastgan.fuse fuses it"
    if isinstance(module, FusedBlock):
        fused = module.members() is not None
        return fused, "a run of one block" if fused else "its children cannot be fused"
    family = family_of(module)
    if family is None:
        return False, f"{type(module).__name__} is not one of the modules that can be fused"
    if (reason := why_not(module)) is not None:
        return False, reason
    if isinstance(module, BatchNorm2d):
        return True, "a run of one block"
    if family == "activation":
        after = f"it comes after {type(before).__name__}" if before is not None else "nothing comes before it"
        return False, f"an activation is fused with the convolution or batch-norm right before it, and {after}"
    return False, "it is called by itself; inside a Sequential it would be fused"
