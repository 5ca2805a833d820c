"""The one gate: whether tensors may go to native kernels, or torch's own forward has to run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.nn import Module, Parameter
from torch.nn.modules import module as _torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

_PLAIN = (Tensor, Parameter)
FUSED = "_fastgan_forward"  # where `fuse` notes the forward that it set


def is_plain(value: object) -> bool:
    """A Tensor or Parameter itself, not a subclass, which may mean anything by it."""
    return type(value) in _PLAIN


def has_data(*values: object) -> bool:
    """Whether all that are not None are plain tensors with data."""
    return all(value is None or (is_plain(value) and not value.is_meta) for value in values)


def is_open(input: object) -> bool:
    """False for tensor subclasses and proxies, and while something transforms or records what torch computes."""
    return (
        is_plain(input)
        and input.layout is torch.strided
        and not input.is_meta
        and not input.is_nested
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not torch.compiler._is_exporting_flag  # is_exporting() is true of whatever torch 2.11 compiles
        and (torch.compiler.is_compiling() or not (_shut.now or _functions_are_watched()))
    )


def _functions_are_watched() -> bool:
    """Whether a mode of the user's sees what torch's functions are called with; a default device is such a mode too."""
    return torch._C._len_torch_function_stack() > 0 and not all(
        isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()
    )


def holds_plain_tensors(module: Module) -> bool:
    """Whether its parameters and buffers are plain tensors with data; those that reading computes are not looked at."""
    for tensors in (module._parameters, module._buffers):
        for tensor in tensors.values():
            if tensor is not None and (type(tensor) not in _PLAIN or tensor.is_meta):
                return False
    return True


class _Shut(threading.local):
    now = False


_shut = _Shut()


@contextmanager
def shut() -> Iterator[None]:
    """Inside, torch's own forwards run: for gradients that will be differentiated, which it takes of the input alone.

    An autograd function written in Python computes the weights' gradients with it, whoever wants them, and a run
    computes itself once more (measured: the R1 penalty of the DCGAN discriminator takes 1.36 times as long).
    """
    before, _shut.now = _shut.now, True
    try:
        yield
    finally:
        _shut.now = before


def is_observed(module: Module) -> bool:
    """Whether calling ``module`` does more than its pre-hooks and its forward."""
    attributes = module.__dict__
    return bool(
        attributes["_forward_hooks"]
        or attributes["_backward_hooks"]
        or attributes["_backward_pre_hooks"]
        or attributes["_forward_pre_hooks_with_kwargs"]
        or "_conv_forward" in attributes  # which users replace on one instance, as they do its forward
        or "_check_input_dim" in attributes
        or _is_replaced(attributes)
    )


def _is_replaced(attributes: dict[str, Any]) -> bool:
    """Whether somebody else than ``fuse`` set a forward."""
    if "forward" not in attributes and FUSED not in attributes:
        return False
    if torch.compiler.is_compiling():  # the compiler cannot compare them
        return ("forward" in attributes) != (FUSED in attributes)
    return attributes.get("forward") is not attributes.get(FUSED)


def has_hooks(module: Module) -> bool:
    """Whether calling ``module`` does more than its forward."""
    return bool(module._forward_pre_hooks) or is_observed(module)


def has_global_hooks() -> bool:
    """Whether hooks on every module are registered."""
    return _torch_module._has_any_global_hook()


def runs_own_forward(module: Module) -> bool:
    """Whether its class has not replaced the forward of fastgan's."""
    return type(module).forward.__module__.startswith("fastgan.layers.")


def leaf(module: Module, *inputs: Any) -> Proxy | None:
    """Under ``torch.fx`` tracing the call of ``module`` as one node, as for torch's own modules; otherwise None."""
    for input in inputs:
        # A subclass's forward that calls this one is traced through, and so is the module that tracing began at.
        if isinstance(input, Proxy) and runs_own_forward(module) and module is not input.tracer.root:
            path = input.tracer.path_of_module(module)
            return input.tracer.create_proxy("call_module", path, inputs, {})
    return None


def as_torch(module: Module, base: type[Module]) -> Module:
    """The same module, children and parameters as an instance of torch's class: what ``torch.jit.script`` can read.

    The module itself where its class has a forward of its own, which has to be read.
    """
    if base.__module__.startswith("torch.") and not runs_own_forward(module):
        return module
    twin = base.__new__(base)
    twin.__dict__.update(module.__dict__)
    return twin
