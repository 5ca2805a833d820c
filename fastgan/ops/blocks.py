"""A run's blocks: their options and tensors, and the numbers as which the native operators take the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastgan.ops.activation import NUMBERS


class Conv(NamedTuple):
    """The options of a convolution, as ``aten::convolution`` takes them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)

    def output_size(self, size: int, kernel: int, dim: int) -> int:
        """The output's height (``dim`` 0) or width (1)."""
        stride, padding, reach = self.stride[dim], self.padding[dim], self.dilation[dim] * (kernel - 1)
        if self.transposed:
            return (size - 1) * stride - 2 * padding + reach + self.output_padding[dim] + 1
        return (size + 2 * padding - reach - 1) // max(stride, 1) + 1


class Norm(NamedTuple):
    """The options of a batch-norm; ``training`` means that the batch's own statistics are used."""

    training: bool
    momentum: float
    eps: float


class Block(NamedTuple):
    """One block's options. At least one of ``conv`` and ``norm`` is there."""

    conv: Conv | None
    norm: Norm | None
    activation: int
    negative_slope: float
    inplace: bool = False  # whether the activation writes over its input, as torch.nn's modules can

    def keeps_input(self) -> bool:
        """Whether torch's activation keeps its input for backward, and leaves its output to the caller."""
        return self.norm is None and self.activation == NUMBERS["leaky_relu"] and not self.inplace

    def keeps_anything(self) -> bool:
        """Whether backward reads what the block handed on."""
        return self.norm is not None or self.activation != 0


class Parameters(NamedTuple):
    """One block's tensors."""

    weight: Tensor | None = None  # [C_out, C_in / groups, kH, kW], or [C_in, C_out / groups, kH, kW] transposed
    bias: Tensor | None = None  # [C_out]
    bn_weight: Tensor | None = None  # [C_out], or, of a batch-norm alone, [N, C_out] for each sample
    bn_bias: Tensor | None = None  # the same
    running_mean: Tensor | None = None  # [C_out]
    running_var: Tensor | None = None  # [C_out]
    batches: Tensor | None = None  # int64 []: how many the running statistics have seen, to be counted on


LEAVES, RUNNING = 4, 3  # of a block's parameters, those that may need gradients come first, then running statistics
KEPT = 3  # a block's tensors that forward keeps, each or None
# The numbers are those of csrc/run/run.h.
_CONVOLUTION, _TRANSPOSED = 1, 2
_GIVEN, _TRAINING = 1, 2  # whose statistics a batch-norm uses: running ones, or the batch's own
_NO_CONV, _NO_NORM = (0,) * 10, 0
_INTEGERS = len(_NO_CONV) + 3


def numbers_of(blocks: Sequence[Block], keeps: bool) -> tuple[list[int], list[float]]:
    """The blocks' options as the operators take them: of each block its integers, and its reals.

    Args:
        keeps: whether forward keeps what backward will need.
    """
    integers: list[int] = []
    reals: list[float] = []
    for conv, norm, number, slope, _ in blocks:
        if conv is None:
            integers += _NO_CONV
        else:
            stride, padding, dilation, groups, transposed, output_padding = conv
            kind = _TRANSPOSED if transposed else _CONVOLUTION
            integers += (kind, *stride, *padding, *dilation, *output_padding, groups)
        if norm is None:
            integers += (_NO_NORM, number, 0)
            reals += (0.0, 0.0, slope)
        else:
            integers += (_TRAINING if norm.training else _GIVEN, number, 0)
            reals += (norm.momentum, norm.eps, slope)
    integers[-1] = int(keeps and blocks[-1].keeps_input())
    return integers, reals


class Shape(NamedTuple):
    """Of a block's options those on which depends what the operators return."""

    conv: Conv | None
    has_norm: bool
    is_training: bool
    keeps_input: bool


def shapes_of(integers: Sequence[int]) -> list[Shape]:
    """The inverse of :func:`numbers_of`, for integers."""
    blocks = []
    for at in range(0, len(integers), _INTEGERS):
        kind, *options, groups, norm, _, keeps_input = integers[at : at + _INTEGERS]
        stride, padding, dilation, output_padding = (tuple(options[i : i + 2]) for i in range(0, 8, 2))
        conv = Conv(stride, padding, dilation, groups, kind == _TRANSPOSED, output_padding) if kind else None
        blocks.append(Shape(conv, norm != _NO_NORM, norm == _TRAINING, keeps_input != 0))
    return blocks
