"""Optimizers that read channels-last tensors in the order in which they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

__all__ = ["in_memory_order"]

# Of these each element's update asks for nothing but what belongs to that element.
_ELEMENTWISE = (Adam, AdamW, SGD)
_TO_MEMORY, _BACK = (0, 2, 3, 1), (0, 3, 1, 2)
_LARGE = 1 << 15  # elements whose copy takes longer than the views


@contextmanager
def in_memory_order(optimizer: Optimizer) -> Iterator[None]:
    """Inside, channels-last parameters on a CPU, with their gradients and states, are contiguous, [N, H, W, C].

    Torch's fused optimizers for CPUs copy every gradient that is not contiguous, which takes as long as the update. Of
    a permuted view of the same memory they compute the same, element by element. Other optimizers, and those with
    hooks of their own, see their tensors as they are.
    """
    moved: list[Parameter] = []
    try:
        if _may_move(optimizer):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if _is_worth_it(parameter):
                        moved.append(parameter)
                        _permute(optimizer, parameter, _TO_MEMORY)
        yield
    finally:
        for parameter in moved:
            _permute(optimizer, parameter, _BACK)


def _may_move(optimizer: Optimizer) -> bool:
    has_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return type(optimizer) in _ELEMENTWISE and not has_hooks


def _is_worth_it(parameter: Parameter) -> bool:
    grad = parameter.grad
    return (
        parameter.dim() == 4
        and parameter.numel() >= _LARGE
        and parameter.device.type == "cpu"
        and type(parameter) is Parameter
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
        and grad is not None
        and grad.layout == torch.strided
        and grad.stride() == parameter.stride()
    )


def _permute(optimizer: Optimizer, parameter: Parameter, dims: Sequence[int]) -> None:
    grad, parameter.grad = parameter.grad, None  # torch checks its shape
    parameter.data = parameter.data.permute(dims)
    parameter.grad = grad.permute(dims)
    state = optimizer.state.get(parameter, {})  # of a first step there is none before
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 4:
            state[name] = value.permute(dims)
