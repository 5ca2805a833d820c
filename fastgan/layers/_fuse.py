"""``fuse`` and ``unfuse``: an instance gets a forward of its own; class, children and parameters stay as they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch.nn import Module

from fastgan.errors import UserError
from fastgan.layers import _gate
from fastgan.layers._blocks import FusedBlock
from fastgan.layers._chain import chains, flatten, is_sequential
from fastgan.layers._losses import BCELoss, BCEWithLogitsLoss
from fastgan.layers._modules import BatchNorm2d
from fastgan.layers._sequential import Sequential, run_sequential
from fastgan.layers._trace import Traced
from fastgan.layers._values import CannotFuse

M = TypeVar("M", bound=Module)

# What runs fused by itself, and the forward that it has otherwise.
_OWN: dict[type[Module], Callable[..., Any]] = {
    Sequential: torch.nn.Sequential.forward,
    FusedBlock: FusedBlock.run_unfused,
    BatchNorm2d: torch.nn.BatchNorm2d.forward,
    BCELoss: torch.nn.BCELoss.forward,
    BCEWithLogitsLoss: torch.nn.BCEWithLogitsLoss.forward,
}
_REPLICATE, _SCRIPT = "_replicate_for_data_parallel", "__prepare_scriptable__"


def fuse(model: M, max_run: int | None = None) -> M:
    """Runs a model's chains of convolution, batch-norm and activation fused from now on, for training too.

    Every ``torch.nn.Sequential`` inside is run in chains, and so is every module whose own forward calls such children
    and can be traced by ``torch.fx``; others stay as they are (:func:`fastgan.explain` says why). Nothing is replaced:
    parameters, ``state_dict`` keys, types and ``repr`` stay, no weight is folded, and :func:`unfuse` takes it back.

    Args:
        model: changed in place.
        max_run: the most blocks that one chain, which is one autograd function, may hold. A short one lets
            ``DistributedDataParallel`` send gradients off earlier; None sets no limit.

    Returns:
        ``model``.

    Raises:
        UserError: if ``model`` is not a module, or ``max_run`` is less than 1.
    """
    if not isinstance(model, Module):
        raise UserError(f"fuse takes a torch.nn.Module, and got {type(model).__name__}; give it the model.")
    if max_run is not None and max_run < 1:
        raise UserError(f"max_run={max_run} is less than one block; give at least 1, or None for no limit.")
    for module in list(model.modules()):
        _unpatch(module)
        if is_sequential(module):
            if "forward" not in module.__dict__ and _has_chain(module):
                _patch(module, run_sequential, max_run)
        elif calls_children(module) and "forward" not in module.__dict__:
            traced = Traced(max_run)
            try:
                traced.forward_for(module)
            except CannotFuse:
                continue
            _patch(module, _run_traced, traced)
    return model


def unfuse(model: M) -> M:
    """Runs a model unfused again, module by module: :mod:`torch.nn` models exactly as before :func:`fuse`.

    Models of :mod:`fastgan.layers` run by torch's own forwards until they are fused again.

    Args:
        model: changed in place.

    Returns:
        ``model``.
    """
    for module in list(model.modules()):
        _unpatch(module)
        for own, forward in _OWN.items():
            if isinstance(module, own) and "forward" not in module.__dict__:
                module.__dict__["forward"] = _bound(_run_unfused, module, forward, forward)
    return model


def is_fused(module: Module) -> bool:
    """Whether ``fuse`` gave the module the forward that it has."""
    return module.__dict__.get("forward") is not None and module.__dict__["forward"] is module.__dict__.get(_gate.FUSED)


def is_unfused(module: Module) -> bool:
    """Whether ``unfuse`` gave the module the forward that it has."""
    return getattr(module.__dict__.get("forward"), "func", None) is _run_unfused


def doubt_of(module: Module) -> str:
    """Why a module that was fused went back to its own forward; empty where it did not."""
    option = module.__dict__["forward"].args[1]
    return option.doubt if isinstance(option, Traced) else ""


def _has_chain(sequential: Module) -> bool:
    return any(isinstance(part, list) for part in chains(list(flatten(sequential))))


def calls_children(module: Module) -> bool:
    """Whether a module is its users' own, with children that its forward may call."""
    return (
        bool(module._modules)
        and not isinstance(module, FusedBlock)
        and not type(module).__module__.startswith("torch.")
    )


# ---- a forward of one's own -----------------------------------------------------------------------------------------


def _bound(
    function: Callable[..., Any], module: Module, option: Any, named_as: Callable[..., Any]
) -> Callable[..., Any]:
    # Partials, not closures or methods: they can be pickled, and deepcopy binds them to the copy.
    forward = functools.partial(function, module, option)
    # By which torch.export names the inputs; without annotations, since not every one can be pickled.
    parameters = inspect.signature(MethodType(named_as, module)).parameters.values()
    forward.__signature__ = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    return forward


def _patch(module: Module, function: Callable[..., Any], option: Any) -> None:
    forward = _bound(function, module, option, type(module).forward)
    module.__dict__["forward"] = module.__dict__[_gate.FUSED] = forward
    module.__dict__[_REPLICATE] = functools.partial(_replicate, module)
    module.__dict__[_SCRIPT] = functools.partial(_scriptable, module)


def _unpatch(module: Module) -> None:
    if is_fused(module) or is_unfused(module):
        del module.__dict__["forward"]
    for name in (_gate.FUSED, _REPLICATE, _SCRIPT):
        module.__dict__.pop(name, None)


def _run_traced(module: Module, traced: Traced, *inputs: Any, **named: Any) -> Any:
    plain = inputs and not named and all(_gate.is_open(input) for input in inputs)
    # The compiler sees through the module's own forward, and could not see through what decides here.
    if not plain or _gate.has_global_hooks() or torch.compiler.is_compiling():
        return type(module).forward(module, *inputs, **named)
    return traced.checked_forward_for(module, inputs)(module, *inputs)


def _run_unfused(module: Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    return forward(module, *inputs, **named)


def _replicate(module: Module) -> Module:
    """What ``DataParallel`` makes of a module: its ``__dict__`` copied, so that the forward has to be bound anew."""
    replica = type(module)._replicate_for_data_parallel(module)
    forward = module.__dict__["forward"]
    _patch(replica, forward.func, *forward.args[1:])
    return replica


def _scriptable(module: Module) -> Module:
    """``torch.jit.script`` reads the class's own forward."""
    twin = _gate.as_torch(module, type(module))
    _unpatch(twin)
    return twin
