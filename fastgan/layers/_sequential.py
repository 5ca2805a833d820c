"""``Sequential`` that runs its chains of fusable modules as one operator each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from fastgan.layers import _gate
from fastgan.layers._blocks import FusedBlock
from fastgan.layers._plan import Members, block_of, is_activation, is_batch_norm, is_convolution
from fastgan.ops.batch_norm_act import check_batch
from fastgan.ops.conv_bn_act import output_size
from fastgan.ops.run import Block, Parameters, run


class Sequential(torch.nn.Sequential):
    """``torch.nn.Sequential`` that fuses ``[Conv2d | ConvTranspose2d] -> [BatchNorm2d]? -> [activation]?`` chains.

    Activations are ReLU, LeakyReLU, Tanh and Sigmoid. A maximal chain of such blocks is one autograd function. Torch's
    modules and fastgan's are fused alike; a module of any other type (a subclass too), or with a hook, runs by itself.
    """

    def forward(self, input: Tensor) -> Tensor:
        """What the modules one after another compute."""
        if not _gate.is_open(input) or _gate.has_global_hooks():
            return super().forward(input)
        for part in chains(list(self)):
            if isinstance(part, Module):
                input = part(input)
            elif _gate.is_open(input) and input.dim() == 4:
                input = run_blocks(input, part)
            else:
                for members in part:
                    for module in members:
                        input = input if module is None else module(input)
        return input


def chains(modules: Sequence[Module]) -> Iterator[Module | list[Members]]:
    """The modules in order: each maximal chain of blocks as one list, every other module by itself."""
    chain: list[Members] = []
    position = 0
    while position < len(modules):
        members, position = _next_block(modules, position)
        if isinstance(members, Members):
            chain.append(members)
            continue
        if chain:
            yield chain
            chain = []
        yield members
    if chain:
        yield chain


def _next_block(modules: Sequence[Module], position: int) -> tuple[Members | Module, int]:
    """The block, or the single module, that begins at ``position``, and where the next one does."""
    module = modules[position]
    if isinstance(module, FusedBlock) and not _gate.has_hooks(module) and (members := module.members()) is not None:
        return members, position + 1
    found: list[Module | None] = []
    start = position
    for fits in (is_convolution, is_batch_norm, is_activation):
        fit = position < len(modules) and fits(modules[position])
        if fits is is_activation and position == start:
            fit = False  # an activation alone is not a block
        found.append(modules[position] if fit else None)
        position += fit
    if position == start:
        return module, start + 1
    return Members(*found), position


def run_blocks(input: Tensor, chain: Sequence[Members]) -> Tensor:
    """Runs a chain of blocks on [N, C, H, W] as one operator."""
    blocks, parameters = zip(*map(block_of, chain), strict=True)
    _check_batches(input, blocks, parameters)
    return run(input, blocks, parameters)


def _check_batches(input: Tensor, blocks: Sequence[Block], parameters: Sequence[Parameters]) -> None:
    """torch's ValueError for one value a channel, which can only be met where a batch of one shrinks to one pixel."""
    if input.shape[0] != 1:
        return
    height, width = input.shape[2:]
    for block, p in zip(blocks, parameters, strict=True):
        if block.conv is not None:
            height = output_size(block.conv, height, p.weight.shape[2], 0)
            width = output_size(block.conv, width, p.weight.shape[3], 1)
            if height < 1 or width < 1:
                return  # no output at all: the convolution's own error
        check_batch(input, block.norm, 1, 1, (height, width))
