"""A run: a chain of blocks, each [convolution] -> [batch-norm] -> [activation], as one autograd.Function.

Inside a run no block's activation has to exist. A block with batch-norm hands on its convolution's output and leaves
normalise + activate pending; the next block applies them as it takes in its input. For backward a run keeps one tensor
a block: the convolution's output and its statistics, or, without batch-norm, the block's output. The output of a run is
kept only where torch's activation keeps its own, so that writing over it is legal where it is in torch.

Every public operator on a convolution or a batch-norm is a run of one block; ``layers.Sequential`` makes longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import _native
from fastgan.ops import _engine, _plain, activation
from fastgan.ops._meta import accumulate_dtype, memory_format_of
from fastgan.ops.blocks import KEPT, LEAVES, RUNNING, Block, Conv, Norm, Parameters, numbers_of, shapes_of


class Kernels:
    """What a run says of itself: which native kernels, "op/kernel", its blocks ran, forward and backward."""

    def __init__(self) -> None:
        self._told: list[tuple[int, int, _native.Trace]] = []  # the first block, the step to the next one, and of each
        self._begin = 0

    def tell(self, device: str, first: int, step: int) -> None:
        """Adds what the operator that just ended ran, one block after another."""
        told = (self._begin + first, step, _native.take_trace(device))
        if told not in self._told:  # a backward may run again
            self._told.append(told)

    def from_block(self, begin: int) -> Kernels:
        """For a run of the blocks from there on, which counts them from 0."""
        rest = Kernels()
        rest._told, rest._begin = self._told, self._begin + begin
        return rest

    def of(self, block: int) -> list[str]:
        """In the order in which they first ran."""
        places = (((block - first) * step, trace) for first, step, trace in self._told)
        return [*dict.fromkeys(name for at, trace in places if 0 <= at < len(trace) for name in trace[at])]


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
        kernels: where given, it is told which native kernels run.

    Returns:
        The last block's output, in the dtype and memory format that the unfused modules would give.
    """
    device = input.device.type
    dtype = _engine.autocast_dtype(device)
    if dtype is None:
        _check_dtypes(input, parameters)
        return _run(input, blocks, parameters, batch_groups, kernels)
    with _engine.no_autocast(device):
        if blocks[0].conv is None and input.dtype != dtype:  # autocast leaves a batch-norm in its input's dtype
            input = _run(input, blocks[:1], parameters[:1], batch_groups, kernels)
            blocks, parameters, kernels = blocks[1:], parameters[1:], kernels and kernels.from_block(1)
        if not blocks:
            return input
        parameters = [p._replace(weight=_cast_weight(p.weight, dtype), bias=_cast(p.bias, dtype)) for p in parameters]
        return _run(_cast(input, dtype), blocks, parameters, batch_groups, kernels)


def work_of(input: Tensor, blocks: Sequence[Block], parameters: Sequence[Parameters]) -> list[tuple[int, int]]:
    """Of each block the elements that it hands on, and the multiplications of its forward in native kernels on a CPU.

    Nothing is run; of the tensors' values none is read.
    """
    dtype = _engine.autocast_dtype(input.device.type)
    if dtype is not None:
        input, parameters = _cast(input, dtype), [p._replace(weight=_cast_weight(p.weight, dtype)) for p in parameters]
    leaves = [tensor for p in parameters for tensor in p[:LEAVES]]
    work = torch.ops.fastgan._run_work.default(input, leaves, *numbers_of(blocks, keeps=False))
    return [(elements, multiplications) for elements, multiplications in _batched(work, 2)]


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
    leaves = [tensor for p in parameters for tensor in p[:LEAVES]]
    running = [tensor for p in parameters for tensor in p[LEAVES:]]
    is_compiling = torch.compiler.is_compiling()
    if is_compiling and any(_are_twins(running)):  # each would be counted on from where both began
        return run_reference(input, blocks, parameters, batch_groups)
    if not torch.is_grad_enabled() or not any(map(_needs_grad, (input, *leaves))):
        return _forward(input, blocks, leaves, running, batch_groups, kernels, keeps=False)[-1]
    frozen = 0 if _needs_grad(input) else _frozen(parameters)
    if frozen:  # nothing of these is kept, and their input may be written over
        input = _run(input, blocks[:frozen], parameters[:frozen], batch_groups, kernels)
        rest = kernels and kernels.from_block(frozen)
        return _run(input, blocks[frozen:], parameters[frozen:], batch_groups, rest)
    if is_compiling:  # which passes no tensor twice
        input, *leaves = _without_twins([input, *leaves])
    return _Run.apply(tuple(blocks), batch_groups, kernels, input, *leaves, *running)


def _needs_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _frozen(parameters: Sequence[Parameters]) -> int:
    """How many blocks there are before the first with a gradient."""
    of_blocks = (any(map(_needs_grad, p[:LEAVES])) for p in parameters)
    return next(i for i, needs in enumerate(of_blocks) if needs)


def _without_twins(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """With an alias in the place of a tensor that was there before."""
    alias = torch.ops.aten.alias.default
    return [alias(tensor) if is_twin else tensor for tensor, is_twin in zip(tensors, _are_twins(tensors), strict=True)]


def _are_twins(tensors: Sequence[Tensor | None]) -> list[bool]:
    """By `is`, since torch 2.11 compiles no id() of what a graph has computed."""
    return [t is not None and any(t is other for other in tensors[:i]) for i, t in enumerate(tensors)]


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
    _count_batches([p.batches for p in parameters if p.batches is not None], batch_groups)
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


def _count_batches(counters: list[Tensor], batches: int) -> None:
    if len({*map(id, counters)}) < len(counters):  # a batch-norm that is there twice counts twice
        for counter in counters:
            counter.add_(batches)
    elif counters:
        torch._foreach_add_(counters, batches)  # of all in one launch


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
    leaves: Sequence[Tensor | None],
    running: Sequence[Tensor | None],
    batch_groups: int,
    kernels: Kernels | None,
    keeps: bool,
) -> list[Tensor]:
    """The run's output at the end; where backward will need it, before that what :func:`kept_of` reads."""
    options = (*numbers_of(blocks, keeps), batch_groups, keeps, _engine.allows_tf32(input))
    if not torch.compiler.is_compiling():
        results = torch.ops.fastgan._run.default(input, leaves, running, *options)
        if kernels is not None:
            kernels.tell(input.device.type, 0, 1)
        return results
    results = torch.ops.fastgan._run_functional.default(input, leaves, running, *options)
    tracked = [tensor for tensor in _where_training(blocks, True, running) if tensor is not None]
    first = len(results) - len(tracked)
    for tensor, updated in zip(tracked, results[first:], strict=True):
        tensor.copy_(updated)
    return results[:first]


def _where_training(blocks: Sequence[Block], training: bool, running: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The running statistics of batch-norms that are, or are not, in training, and None in the others' places."""
    are = (block.norm is not None and block.norm.training is training for block in blocks)
    return [tensor if of else None for of, pair in zip(are, _batched(running, RUNNING), strict=True) for tensor in pair]


def _batched(tensors: Sequence, size: int) -> list[Sequence]:
    """In parts of ``size``."""
    return [tensors[i : i + size] for i in range(0, len(tensors), size)]


def kept_of(input: Tensor, blocks: Sequence[Block], results: Sequence[Tensor]) -> list[Tensor | None]:
    """Of each block what backward reads: its tensor and, with batch-norm, mean and invstd, otherwise None."""
    left = iter(results)
    kept: list[Tensor | None] = []
    for i, block in enumerate(blocks):
        tensor = input if i == 0 and block.conv is None else next(left)
        kept += (tensor, None, None) if block.norm is None else (tensor, next(left), next(left))
    if not blocks[-1].keeps_anything():
        kept[-KEPT] = None
    return kept


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
        count = len(blocks) * LEAVES
        leaves, running = tensors[:count], tensors[count:]
        results = _forward(input, blocks, leaves, running, batch_groups, kernels, keeps=True)
        ctx.blocks, ctx.batch_groups, ctx.kernels = blocks, batch_groups, kernels
        # Running statistics are needed again only where they were used; training changes them in place.
        used = _where_training(blocks, False, running)
        ctx.save_for_backward(input, *leaves, *used, *kept_of(input, blocks, results))
        return results[-1]

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        blocks = ctx.blocks
        input, *saved = ctx.saved_tensors
        count, end = len(blocks) * LEAVES, len(blocks) * (LEAVES + RUNNING)
        leaves, running, kept = saved[:count], saved[count:end], saved[end:]
        needs = ctx.needs_input_grad[3 : 4 + count]
        if _plain.is_asked_for(grad_output):
            grads = _gradients_by_torch(ctx, grad_output, [input, *leaves], running, needs)
        else:
            options = (*numbers_of(blocks, keeps=False), needs, _engine.allows_tf32(input))
            found = torch.ops.fastgan._run_backward.default(grad_output, input, leaves, kept, *options)
            if ctx.kernels is not None:
                ctx.kernels.tell(input.device.type, len(blocks) - 1, -1)
            grads = _plain.where_needed(needs, found)
        return None, None, None, *grads, *(None for _ in running)


def _gradients_by_torch(
    ctx,
    grad_output: Tensor,
    tensors: Sequence[Tensor | None],
    running: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    def function(input: Tensor, *leaves: Tensor | None) -> Tensor:
        pairs = zip(_batched(leaves, LEAVES), _batched(running, RUNNING), strict=True)
        parameters = [Parameters(*of_block, *statistics) for of_block, statistics in pairs]
        return run_reference(input, ctx.blocks, parameters, ctx.batch_groups)

    with _engine.no_autocast(grad_output.device.type):
        return _plain.gradients(function, tensors, needs, grad_output)


# ---- what the operators return, for who does not run them -----------------------------------------------------------


def _fake_output(input: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv) -> Tensor:
    weight = weight.to(input.dtype)  # which may be wider
    options = (conv.stride, conv.padding, conv.dilation, conv.transposed, conv.output_padding, conv.groups)
    output = torch.ops.aten.convolution.default(input, weight, bias, *options)
    return torch.empty_like(output, memory_format=_convolved_format(input, weight))


def _convolved_format(input: Tensor, weight: Tensor) -> torch.memory_format:
    """Of a convolution's output and of its input's gradient (csrc/conv/convolution.h)."""
    formats = (memory_format_of(input), memory_format_of(weight))
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def _fake_activated(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=memory_format_of(tensor))


if _native.loaded("cpu"):

    @torch.library.register_fake("fastgan::_run")
    def _run_fake(input, parameters, running, blocks, factors, batch_groups, keeps, allow_tf32=False):
        results = []
        tensor, is_pending = input, False
        shapes = shapes_of(blocks)
        for i, block in enumerate(shapes):
            weight, bias, *_ = parameters[i * LEAVES : (i + 1) * LEAVES]
            if block.conv is not None:
                tensor = _fake_output(tensor, weight, bias, block.conv)
            elif is_pending:
                tensor = _fake_activated(tensor)
            is_pending = block.has_norm or block.keeps_input
            if (is_pending or i + 1 < len(shapes)) and (block.conv is not None or i > 0):
                results.append(tensor)
            if block.has_norm:
                shape, dtype = (batch_groups, tensor.shape[1]), accumulate_dtype(tensor.dtype)
                results += (tensor.new_empty(shape, dtype=dtype) for _ in range(2))
        output = _fake_activated(tensor) if is_pending else tensor
        return [*results, output] if keeps else [output]

    @torch.library.register_fake("fastgan::_run_functional")
    def _(input, parameters, running, blocks, *options, **more):
        pairs = zip(shapes_of(blocks), _batched(running, RUNNING), strict=True)
        tracked = [tensor for shape, pair in pairs if shape.is_training for tensor in pair if tensor is not None]
        results = _run_fake(input, parameters, running, blocks, *options, **more)
        return [*results, *map(torch.empty_like, tracked)]

    @torch.library.register_fake("fastgan::_run_backward")
    def _(grad_output, input, parameters, kept, blocks, factors, needs, allow_tf32=False):
        first = shapes_of(blocks)[0]
        format = memory_format_of(input) if first.conv is None else _convolved_format(input, parameters[0])
        results = [torch.empty_like(input, memory_format=format)] if needs[0] else []
        dtype = accumulate_dtype(input.dtype)
        for i, (tensor, is_needed) in enumerate(zip(parameters, needs[1:], strict=True)):
            if is_needed:
                as_weight, as_bias = i % LEAVES == 0, i % LEAVES == 1
                if as_weight:
                    results.append(torch.empty_like(tensor, memory_format=memory_format_of(tensor)))
                else:
                    results.append(tensor.new_empty(tensor.shape, dtype=input.dtype if as_bias else dtype))
        return results
