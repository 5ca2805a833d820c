"""Convolution, batch normalisation and activation."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from fastgan.errors import UserError
from fastgan.ops import activation as activations
from fastgan.ops.activation import Activation
from fastgan.ops.batch_norm_act import check_batch, norm_of
from fastgan.ops.blocks import Block, Conv, Parameters
from fastgan.ops.run import run, run_reference

Size = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def conv_bn_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    batch_norm: bool = True,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    batch_groups: int = 1,
) -> Tensor:
    """``activation(F.batch_norm(F.conv2d(input, weight, bias, ...), running_mean, running_var, ...))``.

    Differentiable twice. Keeps the convolution's output and its statistics for backward, not the activation.

    Args:
        input: [N, C_in, H, W], float32, float64, bfloat16 or float16, in either memory format.
        weight: [C_out, C_in / groups, kH, kW], in the input's dtype (autocast casts both).
        bias: [C_out].
        stride, padding, dilation, groups: as for :func:`torch.nn.functional.conv2d`, ``"same"`` and ``"valid"`` too.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``, as for :class:`torch.nn.Conv2d`.
        batch_norm: False leaves batch-norm out, and ignores its arguments.
        bn_weight, bn_bias, running_mean, running_var: [C_out]; see :func:`fastgan.ops.batch_norm_act`.
        training, momentum, eps: of the batch-norm.
        activation, negative_slope, batch_groups: see :func:`fastgan.ops.batch_norm_act`.

    Returns:
        [N, C_out, H_out, W_out], in the memory format that ``F.conv2d`` gives.

    Raises:
        UserError, ValueError, RuntimeError: as :func:`fastgan.ops.batch_norm_act`.
    """
    input, block, parameters = block_of(**locals())
    return run(input, [block], [parameters], batch_groups)


def conv_bn_act_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    batch_norm: bool = True,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    batch_groups: int = 1,
) -> Tensor:
    """:func:`conv_bn_act` in plain torch."""
    input, block, parameters = block_of(**locals())
    return run_reference(input, [block], [parameters], batch_groups)


def block_of(
    *,
    input,
    weight,
    bias,
    stride,
    padding,
    dilation,
    groups,
    batch_norm,
    bn_weight,
    bn_bias,
    running_mean,
    running_var,
    training,
    momentum,
    eps,
    activation,
    negative_slope,
    batch_groups,
    padding_mode="zeros",
    transposed=False,
    output_padding=0,
) -> tuple[Tensor, Block, Parameters]:
    """The block of these arguments; ``conv_transpose_bn_act`` shares it."""
    dilation, stride = pair("dilation", dilation), pair("stride", stride)
    input, padding = _padded(input, padding, padding_mode, weight.shape[2:], stride, dilation)
    padding, output_padding = pair("padding", padding), pair("output_padding", output_padding)
    conv = Conv(stride, padding, dilation, groups, transposed, output_padding)
    number = activations.number_of(activation)
    if not batch_norm:
        return input, Block(conv, None, number, negative_slope), Parameters(weight, bias)
    norm = norm_of(training, momentum, eps, running_mean)
    if input.dim() == 4 and weight.dim() == 4:
        pixels = [conv.output_size(input.shape[2 + i], weight.shape[2 + i], i) for i in range(2)]
        check_batch(input, norm, batch_groups, input.shape[0], pixels)
    parameters = Parameters(weight, bias, bn_weight, bn_bias, running_mean, running_var)
    return input, Block(conv, norm, number, negative_slope), parameters


def pair(name: str, value: Size) -> tuple[int, int]:
    """(height, width) of an option given as one number or two."""
    if type(value) is tuple and len(value) == 2:  # as modules keep it
        return value
    if isinstance(value, int):
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    if len(value) != 2:
        raise UserError(f"{name}={value!r} has {len(value)} values; give one number, or (height, width).")
    return int(value[0]), int(value[1])


def _padded(input: Tensor, padding: Size | str, mode: str, kernel, stride, dilation) -> tuple[Tensor, Size]:
    """The input, padded where the convolution itself cannot, and the padding that is left to it."""
    if mode not in get_args(PaddingMode):
        raise UserError(f"padding_mode={mode!r} is unknown; choose one of {', '.join(get_args(PaddingMode))}.")
    if padding == "valid":
        return input, 0
    if padding == "same":
        if stride != (1, 1):
            raise UserError(f"padding='same' needs stride 1, and stride is {stride}; give the padding in numbers.")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    elif isinstance(padding, str):
        raise UserError(f"padding={padding!r} is unknown; give numbers, 'same' or 'valid'.")
    else:
        top, left = bottom, right = pair("padding", padding)
    if mode == "zeros" and (top, left) == (bottom, right):
        return input, (top, left)
    return F.pad(input, (left, right, top, bottom), "constant" if mode == "zeros" else mode), 0
