"""Chains: the maximal sequences of blocks among modules that are called one after another, and how one is run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from fastgan.layers import _gate, _torchs
from fastgan.layers._blocks import FusedBlock
from fastgan.layers._modules import BatchNorm2d
from fastgan.layers._plan import (
    FunctionalActivation,
    Members,
    block_of,
    family_of,
    is_hooked,
    needs_input,
    role_of,
    take_in,
)
from fastgan.ops import _engine
from fastgan.ops.batch_norm_act import check_batch
from fastgan.ops.blocks import Block, Parameters
from fastgan.ops.run import Kernels, run, run_reference

Step = Module | FunctionalActivation  # what is called on the one tensor that flows through


# Forwards that call the children in order; ``_sequential`` adds its own.
SEQUENTIAL_FORWARDS = {torch.nn.Sequential.forward}


TOO_SMALL = "they are faster on tensors this small; FASTGAN_ENGINE=native forces fastgan's"
UNUSUAL = "its parameters or buffers are not plain tensors with data"


class Place(NamedTuple):
    """Where in a chain a module last ran."""

    block: int
    blocks: int
    has_norm: bool  # whether its block has a batch-norm
    why_torch: str | None  # why torch's modules ran; None where they did not
    kernels: Kernels  # of the run's blocks; those of backward come when it has run


last_run: WeakKeyDictionary[Module, Place] = WeakKeyDictionary()


class _Groups(threading.local):
    count = 1


groups = _Groups()
"""Of how many equal parts batch-norm takes its statistics apart; :mod:`fastgan.layers._groups` sets it."""


def run_modules(input: Tensor, modules: Sequence[Step] | torch.nn.Sequential, max_run: int | None = None) -> Tensor:
    """Calls modules one after another, each chain among them as one operator, where that is no slower."""
    if not _gate.is_open(input) or _gate.has_global_hooks():
        return _run_parts(input, modules)
    steps = list(flatten(modules))
    owner = next((step for step in steps if isinstance(step, Module)), None)
    remembers = type(owner).__hash__ is not None and groups.count == 1 and not torch.compiler.is_compiling()
    if owner is None or not remembers:
        return _run_parts(input, chains(steps, max_run))
    key = (max_run, *map(id, steps))
    layout = _torchs.recall(owner, key)
    if layout is not None:
        return _run_laid_out(input, steps, layout, max_run)
    parts = list(chains(steps, max_run))
    if not any(map(_may_be_laid_out_anew, steps)) and not any(map(_may_join_a_chain, parts)):
        _torchs.remember(owner, key, tuple(map(_length, parts)))
    return _run_parts(input, parts)


def _may_be_laid_out_anew(step: Step) -> bool:
    """Whether it is several modules in one, or has a hook, which may be gone at the next call."""
    return isinstance(step, FusedBlock) or (isinstance(step, Module) and is_hooked(step))


def _may_join_a_chain(part: Step | list[Members]) -> bool:
    """Whether it is by itself for now alone, as where somebody has replaced its class's forward."""
    return not isinstance(part, list) and family_of(part) not in (None, "activation")


def _length(part: Step | list[Members]) -> int:
    return sum(map(len, map(_steps_of, part))) if isinstance(part, list) else 0


def _steps_of(members: Members) -> list[Step]:
    return [member for member in members if member is not None]


def _run_parts(input: Tensor, parts: Iterable[Step | list[Members]]) -> Tensor:
    for part in parts:
        input = run_chain(input, part) if isinstance(part, list) else part(input)
    return input


def _run_laid_out(input: Tensor, steps: list[Step], layout: _torchs.Layout, max_run: int | None) -> Tensor:
    """Calls the modules of chains that are known to be torch's; from the first other one on all are looked at."""
    at = 0
    for length in layout:
        if length == 0:
            input = steps[at](input)
            at += 1
            continue
        chain = steps[at : at + length]
        if not _gate.is_open(input) or _torchs.recall(chain[0], _torchs.key_of(input, chain)) is not True:
            break
        for step in chain:
            # fastgan's batch-norm would ask for itself.
            is_norm = isinstance(step, BatchNorm2d) and role_of(step) is not None
            input = torch.nn.BatchNorm2d.forward(step, input) if is_norm else step(input)
        at += length
    for part in chains(steps[at:], max_run):  # not by _run_parts: this frame would keep its input
        input = run_chain(input, part) if isinstance(part, list) else part(input)
    return input


def flatten(modules: Iterable[Step]) -> Iterator[Step]:
    """The modules in order, those of the Sequentials among them one by one."""
    for module in modules:
        if is_sequential(module) and not _gate.has_hooks(module):
            yield from flatten(module)
        else:
            yield module


def is_sequential(module: Step) -> bool:
    """Whether calling ``module`` calls its children in order, fused or not."""
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward in SEQUENTIAL_FORWARDS
        and type(module).__iter__ is torch.nn.Sequential.__iter__
    )


def chains(modules: Iterable[Step], max_run: int | None = None) -> Iterator[Step | list[Members]]:
    """The modules in order: each maximal chain of at most ``max_run`` blocks as one list, every other by itself."""
    chain: list[Members] = []
    for step in _blocks(modules):
        is_block = type(step) is Members
        if chain and (not is_block or len(chain) == max_run or needs_input(step.conv)):
            yield chain
            chain = []
        if is_block:
            chain.append(step)
        else:
            yield step
    if chain:
        yield chain


def _blocks(modules: Iterable[Step]) -> Iterator[Step | Members]:
    """The modules in order: those that make a block as one, every other by itself."""
    conv = bn = None  # of a block that may go on
    for module in modules:
        role = role_of(module)
        has_begun = conv is not None or bn is not None
        if role == "activation" and has_begun:  # alone it is no block
            yield Members(conv, bn, module)
            conv = bn = None
        elif role == "norm" and bn is None:
            bn = module
        else:
            if has_begun:
                yield Members(conv, bn, None)
            conv, bn = module if role == "convolution" else None, module if role == "norm" else None
            if conv is None and bn is None:
                yield _block_itself(module) or module
    if conv is not None or bn is not None:
        yield Members(conv, bn, None)


def _block_itself(module: Step) -> Members | None:
    if not isinstance(module, FusedBlock) or not _gate.runs_own_forward(module) or _gate.has_hooks(module):
        return None
    return module.members()


def run_chain(input: Tensor, chain: Sequence[Members]) -> Tensor:
    """Runs a chain on [N, C, H, W] as one operator, or, where the gate is closed, its modules one after another."""
    if not _gate.is_open(input) or input.dim() != 4 or _gate.has_global_hooks():
        for members in chain:
            input = members.run_unfused(input)
        return input
    return run_fused(input, chain)


def run_alone(input: Tensor, norm: Module) -> Tensor:
    """Runs a batch-norm on a plain [N, C, H, W] as one operator."""
    checks = type(norm)._check_input_dim is not torch.nn.BatchNorm2d._check_input_dim  # a subclass's own
    return run_fused(input, [Members(None, norm, None)], norm._check_input_dim if checks else None)


def run_fused(input: Tensor, chain: Sequence[Members], check: Callable[[Tensor], object] | None = None) -> Tensor:
    """Runs a chain on a plain [N, C, H, W] as one operator, or, where torch's kernels do, as torch's own modules.

    Args:
        check: of the input, which torch's modules do by themselves.
    """
    is_compiling = torch.compiler.is_compiling()
    count = 1 if is_compiling else groups.count
    if count == 1:
        first, key = chain[0].first(), () if is_compiling else _key_of(input, chain)
        known = None if is_compiling else _torchs.recall(first, key)
        if known:
            return _run_by_torch(input, chain)  # as noted when that was found
        fits = _fits(input, chain)
        if fits and known is None:
            known = _torchs.are_torchs(input, chain)
            if known is not None and not is_compiling:
                _torchs.remember(first, key, known)
        if not fits or known:
            _note_run(chain, _engine.why_aten(input) or (TOO_SMALL if fits else UNUSUAL))
            return _run_by_torch(input, chain)
    if check is not None:
        check(input)
    if (conv := chain[0].conv) is not None:
        input = take_in(conv, input)
    blocks, parameters = zip(*(block_of(members, count) for members in chain), strict=True)
    _check_batches(input, blocks, parameters, count)
    return _run(input, blocks, parameters, count, _note_run(chain))


def _key_of(input: Tensor, chain: Sequence[Members]) -> _torchs.Key:
    return _torchs.key_of(input, [step for members in chain for step in _steps_of(members)])


def _run_by_torch(input: Tensor, chain: Sequence[Members]) -> Tensor:
    for members in chain:
        input = members.run_by_torch(input)
    return input


def _fits(input: Tensor, chain: Sequence[Members]) -> bool:
    """Whether ``run`` computes what the modules do: of other dtypes and kinds of tensors only they know."""
    return _engine.is_supported(input.dtype) and all(
        _gate.holds_plain_tensors(module) for members in chain for module in members.modules()
    )


def _note_run(chain: Sequence[Members], why_torch: str | None = None) -> Kernels | None:
    """Notes each module's place, and returns where the kernels that are run will be; a compiler notes nothing."""
    if torch.compiler.is_compiling():
        return None
    kernels = Kernels()
    for position, members in enumerate(chain, 1):
        place = Place(position, len(chain), members.bn is not None, why_torch, kernels)
        for module in members.modules():
            last_run[module] = place
    return kernels


def _run(
    input: Tensor,
    blocks: Sequence[Block],
    parameters: Sequence[Parameters],
    batch_groups: int,
    kernels: Kernels | None,
) -> Tensor:
    if not all(tensor is None or _gate.is_plain(tensor) for block in parameters for tensor in block):
        return run_reference(input, blocks, parameters, batch_groups)
    return run(input, blocks, parameters, batch_groups, kernels)


def _check_batches(input: Tensor, blocks: Sequence[Block], parameters: Sequence[Parameters], batch_groups: int) -> None:
    """torch's ValueError for one value a channel, which can only be met where a batch of one shrinks to one pixel."""
    if input.shape[0] != batch_groups:
        return
    height, width = input.shape[2:]
    for block, p in zip(blocks, parameters, strict=True):
        if block.conv is not None:
            height = block.conv.output_size(height, p.weight.shape[2], 0)
            width = block.conv.output_size(width, p.weight.shape[3], 1)
            if height < 1 or width < 1:
                return  # no output at all: the convolution's own error
        check_batch(input, block.norm, batch_groups, batch_groups, (height, width))
