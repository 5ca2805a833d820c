"""FLOPs of a run, for :class:`torch.utils.flop_counter.FlopCounterMode`: what torch's own count for its convolutions.

Like torch's formulas, these count the convolutions alone, not batch-norm, activation and bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count, register_flop_formula

from fastgan.ops.blocks import LEAVES, Conv, shapes_of


def register() -> None:
    """Register the formulas with torch."""
    register_flop_formula(torch.ops.fastgan._run)(_forward)
    register_flop_formula(torch.ops.fastgan._run_backward)(_backward)


def _forward(input, parameters, running, blocks, *_args, **_options) -> int:
    convolutions = _convolutions(input, parameters, blocks)
    return sum(conv_flop_count(*shapes, conv.transposed) for _, conv, shapes in convolutions)


def _backward(grad_output, input, parameters, kept, blocks, factors, needs, *_args, **_options) -> int:
    total = 0
    for i, conv, (taken, weight, output) in _convolutions(input, parameters, blocks):
        at = 1 + i * LEAVES
        options = (None, conv.stride, conv.padding, conv.dilation, conv.transposed, conv.output_padding, conv.groups)
        mask = [any(needs[:at]), needs[at], False]
        total += conv_backward_flop(output, taken, weight, *options, mask, out_val=(taken, weight, None))
    return total


def _convolutions(
    input: Sequence[int], parameters: Sequence[Sequence[int] | None], integers: Sequence[int]
) -> Iterator[tuple[int, Conv, tuple[list[int], list[int], list[int]]]]:
    """Of each block with a convolution its number, its options, and the shapes of input, weight and output."""
    shape = [*input]
    for i, (conv, *_) in enumerate(shapes_of(integers)):
        if conv is None:
            continue
        weight = [*parameters[i * LEAVES]]
        channels = weight[1] * conv.groups if conv.transposed else weight[0]
        pixels = [conv.output_size(shape[2 + dim], weight[2 + dim], dim) for dim in range(2)]
        output = [shape[0], channels, *pixels]
        yield i, conv, (shape, weight, output)
        shape = output
