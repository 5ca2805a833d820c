"""A run: a chain of blocks, each [convolution] -> [batch-norm] -> [activation], as one autograd.Function.

Inside a run no block's activation has to exist. A block with batch-norm hands on its convolution's output and leaves
normalise + activate pending; the next block applies them as it takes in its input. For backward a run keeps one tensor
a block: the convolution's output and its statistics, or, without batch-norm, the block's output. The output of a run is
kept only where torch's activation keeps its own, so that writing over it is legal where it is in torch.

Every public operator on a convolution or a batch-norm is a run of one block; ``layers.Sequential`` makes longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import _native
from fastgan.ops import _engine, activation

# What the kernels of a run are called, "op/kernel", by block; a dict for its order.
Kernels = Sequence[dict[str, None]]


class Conv(NamedTuple):
    """The options of a convolution, as ``aten::convolution`` takes them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)


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


class Parameters(NamedTuple):
    """One block's tensors."""

    weight: Tensor | None = None  # [C_out, C_in / groups, kH, kW], or [C_in, C_out / groups, kH, kW] transposed
    bias: Tensor | None = None  # [C_out]
    bn_weight: Tensor | None = None  # [C_out], or, of a batch-norm alone, [N, C_out] for each sample
    bn_bias: Tensor | None = None  # the same
    running_mean: Tensor | None = None  # [C_out]
    running_var: Tensor | None = None  # [C_out]


class _Pending(NamedTuple):
    """A tensor on which normalise + activate are still to be applied, where ``mean`` is there."""

    tensor: Tensor
    mean: Tensor | None = None
    invstd: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    activation: int = 0
    negative_slope: float = 0.0

    def materialise(self) -> Tensor:
        if self.mean is None:
            return self.tensor
        return torch.ops.fastgan._batch_norm_act.default(*self)


_FIELDS = len(Parameters._fields)


def run(
    input: Tensor,
    blocks: Sequence[Block],
    parameters: Sequence[Parameters],
    batch_groups: int = 1,
    kernels: Kernels | None = None,
) -> Tensor:
    """Runs a chain of blocks.

    Args:
        input: [N, C, H, W] (with only batch-norm in the chain: [N, C, ...]).
        blocks: each block's options.
        parameters: each block's tensors.
        batch_groups: batch-norm takes its statistics apart for each of so many equal parts of the batch.
        kernels: where given, one for each block, they are told which native kernels it runs, forward and backward.

    Returns:
        The last block's output, in the dtype and memory format that the unfused modules would give.
    """
    device = input.device.type
    if not _engine.is_autocast_enabled(device):
        _check_dtypes(input, parameters)
        return _run(input, blocks, parameters, batch_groups, kernels)
    dtype = torch.get_autocast_dtype(device)
    with _engine.no_autocast(device):
        if blocks[0].conv is None and input.dtype != dtype:  # autocast leaves a batch-norm in its input's dtype
            input = _run(input, blocks[:1], parameters[:1], batch_groups, kernels and kernels[:1])
            blocks, parameters, kernels = blocks[1:], parameters[1:], kernels and kernels[1:]
        if not blocks:
            return input
        parameters = [p._replace(weight=_cast_weight(p.weight, dtype), bias=_cast(p.bias, dtype)) for p in parameters]
        return _run(_cast(input, dtype), blocks, parameters, batch_groups, kernels)


def _check_dtypes(input: Tensor, parameters: Sequence[Parameters]) -> None:
    """As torch, which takes no wider weight but from autocast."""
    for p in parameters:
        if p.weight is not None and _is_wider(p.weight, input.dtype):
            raise RuntimeError(
                f"argument 'weight' has dtype {p.weight.dtype} but 'input' has {input.dtype}; give both the same "
                "dtype, or use autocast."
            )


def _is_wider(weight: Tensor, dtype: torch.dtype) -> bool:
    return weight.dtype == torch.float32 and dtype == torch.bfloat16


def _cast_weight(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What the kernels round as they read it is not rounded before; its gradient then is not rounded at all."""
    if weight is not None and _is_wider(weight, dtype) and _engine.reads_float32_weights(weight.device.type):
        return weight
    return _cast(weight, dtype)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)


def _run(
    input: Tensor,
    blocks: Sequence[Block],
    parameters: Sequence[Parameters],
    batch_groups: int,
    kernels: Kernels | None,
) -> Tensor:
    # An empty batch has nothing to compute, and torch checks less of its options.
    if not _engine.use_native("run", input) or input.numel() == 0 or not all(map(_has_native_form, blocks)):
        return run_reference(input, blocks, parameters, batch_groups)
    for block in blocks:
        if block.norm is not None and block.norm.eps <= 0:
            _check_eps(block.norm)
    tensors = [tensor for block in parameters for tensor in block]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, *tensors)):
        return _Run.apply(tuple(blocks), batch_groups, kernels, input, *tensors)
    return _forward(input, blocks, parameters, batch_groups, kernels, keeps=False)[0]


def _check_eps(norm: Norm) -> None:
    """torch's bounds, and its words."""
    if norm.training:
        raise ValueError(f"batch_norm eps must be positive during training, but got {norm.eps}")
    if norm.eps < 0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {norm.eps}")


def run_reference(
    input: Tensor, blocks: Sequence[Block], parameters: Sequence[Parameters], batch_groups: int = 1
) -> Tensor:
    """The same in plain torch."""
    for block, p in zip(blocks, parameters, strict=True):
        if (conv := block.conv) is not None:
            input = torch.convolution(
                input,
                p.weight.to(input.dtype) if _is_wider(p.weight, input.dtype) else p.weight,
                p.bias,
                conv.stride,
                conv.padding,
                conv.dilation,
                conv.transposed,
                conv.output_padding,
                conv.groups,
            )
        if (norm := block.norm) is not None:
            is_per_sample = p.bn_weight is not None and p.bn_weight.dim() == 2
            affine = (None, None) if is_per_sample else (p.bn_weight, p.bn_bias)
            parts = input.chunk(batch_groups) if batch_groups > 1 else (input,)
            parts = [F.batch_norm(part, p.running_mean, p.running_var, *affine, *norm) for part in parts]
            input = torch.cat(parts) if batch_groups > 1 else parts[0]
            if is_per_sample:
                input = _scale_and_shift(input, p.bn_weight, p.bn_bias)
        input = activation.apply(input, block.activation, block.negative_slope)
    return input


def _scale_and_shift(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """By weight and bias [N, C] of each sample, in the input's dtype."""
    if weight.shape != input.shape[:2] or bias.shape != input.shape[:2]:
        raise RuntimeError(
            f"weight has shape {list(weight.shape)} and bias {list(bias.shape)}; for each sample both must be "
            f"{list(input.shape[:2])}."
        )
    shape = (*input.shape[:2], *(1 for _ in input.shape[2:]))
    return torch.addcmul(bias.reshape(shape), input, weight.reshape(shape)).to(input.dtype)


def _has_native_form(block: Block) -> bool:
    # Without batch-norm the activation's gradient may be taken from its output, which a negative slope makes ambiguous.
    return block.norm is not None or block.negative_slope >= 0


def _forward(
    input: Tensor,
    blocks: Sequence[Block],
    parameters: Sequence[Parameters],
    batch_groups: int,
    kernels: Kernels | None,
    keeps: bool,
) -> tuple[Tensor, list[_Pending]]:
    """The run's output, and what each block hands on; ``keeps`` says that backward will need it."""
    pending, allow_tf32 = _Pending(input), _engine.allows_tf32(input)
    handed_on = []
    _take_trace(kernels)
    for i, (block, p) in enumerate(zip(blocks, parameters, strict=True)):
        conv, norm = block.conv, block.norm
        leaves_activation = norm is not None or (keeps and i + 1 == len(blocks) and _keeps_input(block))
        if conv is None:
            tensor = pending.materialise()
            mean, invstd = torch.ops.fastgan._batch_norm_stats.default(
                tensor, p.running_mean, p.running_var, *norm, batch_groups
            )
        else:
            op, options = _conv_op(conv)
            tensor, mean, invstd = op(
                *pending,
                p.weight,
                p.bias,
                *options,
                norm is not None,
                p.running_mean,
                p.running_var,
                *(norm or (False, 0.0, 0.0)),
                batch_groups,
                0 if leaves_activation else block.activation,
                block.negative_slope,
                allow_tf32,
            )
        if norm is None and leaves_activation:  # what changes nothing, so that the activation can be pending
            shape = (1, tensor.shape[1])
            mean, invstd = mean.new_zeros(shape), mean.new_ones(shape)
        if leaves_activation:
            pending = _Pending(tensor, mean, invstd, p.bn_weight, p.bn_bias, block.activation, block.negative_slope)
        else:
            pending = _Pending(tensor)
        handed_on.append(pending)
        _take_trace(kernels, i)
    output = pending.materialise()
    _take_trace(kernels, -1)
    return output, handed_on


def _take_trace(kernels: Kernels | None, block: int | None = None) -> None:
    """Tells ``kernels`` what ran since the last call, or, without a block, nobody."""
    if kernels is not None:
        ran = _native.take_trace()
        if block is not None:
            kernels[block].update(dict.fromkeys(ran))


def _conv_op(conv: Conv, backward: bool = False) -> tuple[Any, tuple]:
    ops = torch.ops.fastgan
    if conv.transposed:
        op = ops._conv_transpose_bn_act_backward if backward else ops._conv_transpose_bn_act
        return op.default, (conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups)
    op = ops._conv_bn_act_backward if backward else ops._conv_bn_act
    return op.default, (conv.stride, conv.padding, conv.dilation, conv.groups)


def _keeps_input(block: Block) -> bool:
    """Whether torch's activation keeps its input for backward, and leaves its output to the caller."""
    return block.activation == activation.NUMBERS["leaky_relu"] and not block.inplace


def _keeps_anything(block: Block) -> bool:
    return block.norm is not None or block.activation != 0


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        blocks: tuple[Block, ...],
        batch_groups: int,
        kernels: Kernels | None,
        input: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        parameters = _unflatten(tensors)
        output, handed_on = _forward(input, blocks, parameters, batch_groups, kernels, keeps=True)
        ctx.blocks, ctx.batch_groups, ctx.kernels = blocks, batch_groups, kernels
        # Without batch-norm the activation's gradient asks for no more than the sign of what is kept, input or output.
        kept = [
            (p.tensor, p.mean, p.invstd) if block.norm is not None else (p.tensor, None, None)
            for block, p in zip(blocks, handed_on, strict=True)
        ]
        if not _keeps_anything(blocks[-1]):
            kept[-1] = (None, None, None)
        # Running statistics are needed again only where they were used; training changes them in place.
        inputs = [
            p if block.norm is not None and not block.norm.training else p._replace(running_mean=None, running_var=None)
            for block, p in zip(blocks, parameters, strict=True)
        ]
        ctx.save_for_backward(input, *(t for p in inputs for t in p), *(t for entry in kept for t in entry))
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        input, *saved = ctx.saved_tensors
        count = len(ctx.blocks) * _FIELDS
        tensors, kept = saved[:count], saved[count:]
        needs = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # create_graph=True
            return None, None, None, *_differentiable_backward(ctx, grad_output, [input, *tensors], needs)
        grads = _backward(
            grad_output,
            ctx.blocks,
            _unflatten(tensors),
            input,
            [tuple(kept[i : i + 3]) for i in range(0, len(kept), 3)],
            ctx.kernels,
            needs,
        )
        return None, None, None, *grads


def _unflatten(tensors: Sequence[Tensor | None]) -> list[Parameters]:
    return [Parameters(*tensors[i : i + _FIELDS]) for i in range(0, len(tensors), _FIELDS)]


def _backward(
    grad: Tensor,
    blocks: Sequence[Block],
    parameters: Sequence[Parameters],
    input: Tensor,
    kept: Sequence[tuple[Tensor | None, Tensor | None, Tensor | None]],
    kernels: Kernels | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the input and of every block's tensors, None where not needed."""
    grads: list[Tensor | None] = [None] * len(needs)
    # A block's data gradient is summed up in passing, for the backward of the block below. In how many parts, the
    # kernels decide, which a compiler could not know.
    sums, takes_sums = None, type(grad) is Tensor and not torch.compiler.is_compiling()
    allow_tf32 = _engine.allows_tf32(input)
    _take_trace(kernels)
    for i in reversed(range(len(blocks))):
        block, p = blocks[i], parameters[i]
        tensor, mean, invstd = kept[i] if kept[i][0] is not None else (grad, None, None)
        at = 1 + i * _FIELDS
        needs_below = any(needs[:at])
        if not needs_below and not any(needs[at : at + _FIELDS]):
            break
        statistics = (mean, invstd, p.bn_weight, p.bn_bias)
        training = block.norm is not None and block.norm.training
        if block.conv is None:
            grad, grad_bn_weight, grad_bn_bias = torch.ops.fastgan._batch_norm_act_backward.default(
                grad, tensor, *statistics, block.activation, block.negative_slope, training
            )
            found, sums = (None, None, grad_bn_weight, grad_bn_bias), None
        else:
            op, options = _conv_op(block.conv, backward=True)
            sums_up = takes_sums and _begins_with_sums(blocks, needs, i - 1)
            grad, *found, sums = op(
                grad,
                tensor,
                *statistics,
                training,
                block.activation,
                block.negative_slope,
                *_source(i, input, blocks, parameters, kept),
                p.weight,
                *options,
                needs_below | needs[at] << 1 | needs[at + 1] << 2 | sums_up << 3,
                sums,
                allow_tf32,
            )
        for j, gradient in enumerate(found):
            if needs[at + j]:
                grads[at + j] = gradient
        _take_trace(kernels, i)
    if needs[0]:
        grads[0] = grad
    return grads


def _begins_with_sums(blocks: Sequence[Block], needs: Sequence[bool], i: int) -> bool:
    """Whether the backward of block ``i`` begins with sums, which the block above can then take."""
    if i < 0 or blocks[i].norm is None or blocks[i].conv is None:
        return False
    at = 1 + i * _FIELDS
    return blocks[i].norm.training or needs[at + 2] or needs[at + 3]


def _source(i: int, input: Tensor, blocks: Sequence[Block], parameters: Sequence[Parameters], kept) -> _Pending:
    """What block ``i`` took in."""
    if i == 0:
        return _Pending(input)
    below, p = blocks[i - 1], parameters[i - 1]
    tensor, mean, invstd = kept[i - 1]
    if below.norm is None:
        return _Pending(tensor)
    return _Pending(tensor, mean, invstd, p.bn_weight, p.bn_bias, below.activation, below.negative_slope)


def _differentiable_backward(ctx, grad_output: Tensor, tensors: list[Tensor | None], needs: Sequence[bool]):
    """The gradients as a differentiable function, by plain torch from the saved inputs."""
    # Aliases: gradients stop at them, and second gradients flow on through them to the caller's tensors.
    aliases = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
    wanted = [t for t, need in zip(aliases, needs, strict=True) if need]
    with _engine.no_autocast(grad_output.device.type):
        output = run_reference(aliases[0], ctx.blocks, _unflatten(aliases[1:]), ctx.batch_groups)
        found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needs]
