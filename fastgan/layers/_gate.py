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

_PLAIN = (Tensor, Parameter)
# What users replace on one instance, besides its forward, to change what a module computes.
_PATCHABLE = {"_conv_forward", "_check_input_dim"}
FUSED = "_fastgan_forward"  # where `fuse` notes the forward that it set


def is_plain(value: object) -> bool:
    """A Tensor or Parameter itself, not a subclass, which may mean anything by it."""
    return type(value) in _PLAIN


def is_open(input: object) -> bool:
    """False for tensor subclasses and proxies, and while something transforms or records what torch computes."""
    return (
        is_plain(input)
        and input.layout is torch.strided
        and not input.is_meta
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not torch.compiler.is_exporting()
        and (torch.compiler.is_compiling() or not _shut.now)
    )


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
        or not _PATCHABLE.isdisjoint(attributes)
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


def leaf(module: Module, *inputs: Any) -> Proxy | None:
    """Under ``torch.fx`` tracing the call of ``module`` as one node, as for torch's own modules; otherwise None."""
    for input in inputs:
        if isinstance(input, Proxy):
            path = input.tracer.path_of_module(module)
            return input.tracer.create_proxy("call_module", path, inputs, {})
    return None


def as_torch(module: Module, base: type[Module]) -> Module:
    """The same module, children and parameters as an instance of torch's class: what ``torch.jit.script`` can read."""
    twin = base.__new__(base)
    twin.__dict__.update(module.__dict__)
    return twin
