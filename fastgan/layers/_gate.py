"""The one gate: whether tensors may go to native kernels, or torch's own forward has to run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Module, Parameter
from torch.nn.modules import module as _torch_module

_PLAIN = (Tensor, Parameter)
# What users replace on one instance to change what a module computes.
_PATCHABLE = {"forward", "_conv_forward", "_check_input_dim"}


def is_plain(value: object) -> bool:
    """A Tensor or Parameter itself, not a subclass, which may mean anything by it."""
    return type(value) in _PLAIN


def is_open(input: object) -> bool:
    """False for tensor subclasses and proxies, and while something transforms or records what torch computes."""
    return (
        is_plain(input)
        and input.layout is torch.strided
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not torch.compiler.is_exporting()
    )


def has_hooks(module: Module) -> bool:
    """Whether calling ``module`` does more than its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not _PATCHABLE.isdisjoint(module.__dict__)
    )


def has_global_hooks() -> bool:
    """Whether hooks on every module are registered."""
    return _torch_module._has_any_global_hook()
