"""Trying a forward and leaving no trace of it: what it changes is found and taken back."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.layers._plan import WEIGHT_HOOKS


class CannotFuse(Exception):
    """Why a module keeps its own forward."""


def check(module: Module, forward: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Raises CannotFuse unless the new forward runs the operators of the old one, on tensors without data."""
    try:
        seen = [_operators(module, function, inputs) for function in (type(module).forward, forward)]
    except Exception as error:
        raise CannotFuse(f"its forward cannot be tried on tensors without data: {first_line(error)}") from None
    if seen[0] != seen[1]:
        raise CannotFuse("its forward does something else for a tensor than torch.fx sees it do")


@contextmanager
def unchanged(module: Module) -> Iterator[None]:
    """Takes back changes of the module's attributes and random numbers drawn inside, and raises CannotFuse for them."""
    before, generators = _snapshot(module), _random_states()
    try:
        yield
    finally:
        changed = not _is_same(_snapshot(module), before)
        drew = _random_states() != generators
        _restore(module, before)
        _restore_random(generators)
    if changed:
        raise CannotFuse("its forward changes the module's own attributes")
    if drew:
        raise CannotFuse("its forward draws random numbers in a way that tracing would fix for good")


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- operators ------------------------------------------------------------------------------------------------------


class _Recorder(TorchDispatchMode):
    """The operators that run, in which order, with the shapes they give, and whether they write over an input.

    Otherwise an operator that works in place counts as its out-of-place form, because ``torch.fx`` sees ``x += y`` so.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.seen: list[tuple] = []
        self._inputs = {_storage(input) for input in inputs}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.detach.default:
            writes = func._schema.is_mutable and isinstance(args[0], Tensor) and _storage(args[0]) in self._inputs
            shape = tuple(found.shape) if isinstance(found, Tensor) else None
            self.seen.append((func._schema.name.removesuffix("_"), shape, writes))
        return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _operators(module: Module, function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[tuple]:
    inputs = [input.detach().to("meta") for input in inputs]
    recorder = _Recorder(inputs)
    with _without_data(module), torch.no_grad(), recorder:
        function(module, *inputs)
    return recorder.seen


@contextmanager
def _without_data(module: Module) -> Iterator[None]:
    """Parameters and buffers without data, and no hooks but those that make weights; afterwards all is as it was."""
    modules = list(module.modules())
    stand_ins: dict[int, Tensor] = {}
    before, generators = [_snapshot(m) for m in modules], _random_states()
    try:
        for m in modules:
            m.__dict__.update({name: OrderedDict() for name in _HOOKS})
            weights = {key: hook for key, hook in m._forward_pre_hooks.items() if isinstance(hook, WEIGHT_HOOKS)}
            m.__dict__["_forward_pre_hooks"] = OrderedDict(weights)
            for tensors in (m._parameters, m._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = stand_ins.setdefault(id(tensor), tensor.detach().to("meta"))
        yield
    finally:
        for m, state in zip(modules, before, strict=True):
            _restore(m, state)
        _restore_random(generators)


_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


# ---- state ----------------------------------------------------------------------------------------------------------


def _snapshot(module: Module) -> dict[str, Any]:
    return {
        name: copy.copy(value) if isinstance(value, (dict, list, set)) else value
        for name, value in module.__dict__.items()
    }


def _is_same(now: Any, before: Any) -> bool:
    """Equal containers of the very same values; tensors, for one, cannot be compared."""
    if isinstance(before, dict) and isinstance(now, dict):
        return now.keys() == before.keys() and all(_is_same(now[key], before[key]) for key in before)
    if isinstance(before, list) and isinstance(now, list):
        return len(now) == len(before) and all(map(_is_same, now, before))
    return now is before or (isinstance(before, (bool, int, float, str, tuple, set)) and now == before)


def _restore(module: Module, before: dict[str, Any]) -> None:
    for name in [name for name in module.__dict__ if name not in before]:
        del module.__dict__[name]
    for name, value in before.items():
        now = module.__dict__.get(name)
        if isinstance(value, dict) and isinstance(now, dict):  # the same object: others hold on to it
            if not _is_same(now, value):
                now.clear()
                now.update(value)
        elif isinstance(value, list) and isinstance(now, list):
            now[:] = value
        elif isinstance(value, set) and isinstance(now, set):
            now.clear()
            now.update(value)
        elif now is not value:
            module.__dict__[name] = value


def _random_states() -> tuple:
    return random.getstate(), tuple(torch.get_rng_state().tolist())


def _restore_random(states: tuple) -> None:
    random.setstate(states[0])
    torch.set_rng_state(torch.tensor(states[1], dtype=torch.uint8))
