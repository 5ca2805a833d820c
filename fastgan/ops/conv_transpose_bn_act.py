"""Transposed convolution, batch normalisation and activation."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops.activation import Activation
from fastgan.ops.conv_bn_act import Size, block_of
from fastgan.ops.run import run, run_reference


def conv_transpose_bn_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
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
    """``activation(F.batch_norm(F.conv_transpose2d(input, weight, bias, ...), running_mean, running_var, ...))``.

    Differentiable twice. Keeps the convolution's output and its statistics for backward, not the activation.

    Args:
        input: [N, C_in, H, W], float32, float64, bfloat16 or float16, in either memory format.
        weight: [C_in, C_out / groups, kH, kW], in the input's dtype (autocast casts both).
        bias: [C_out].
        stride, padding, output_padding, groups, dilation: as for :func:`torch.nn.functional.conv_transpose2d`.
        batch_norm: False leaves batch-norm out, and ignores its arguments.
        bn_weight, bn_bias, running_mean, running_var: [C_out]; see :func:`fastgan.ops.batch_norm_act`.
        training, momentum, eps: of the batch-norm.
        activation, negative_slope, batch_groups: see :func:`fastgan.ops.batch_norm_act`.

    Returns:
        [N, C_out, H_out, W_out], in the memory format that ``F.conv_transpose2d`` gives.

    Raises:
        UserError, ValueError, RuntimeError: as :func:`fastgan.ops.batch_norm_act`.
    """
    input, block, parameters = block_of(**locals(), transposed=True)
    return run(input, [block], [parameters], batch_groups)


def conv_transpose_bn_act_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
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
    """:func:`conv_transpose_bn_act` in plain torch."""
    input, block, parameters = block_of(**locals(), transposed=True)
    return run_reference(input, [block], [parameters], batch_groups)
