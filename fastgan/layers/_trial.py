"""Trying a forward on a copy of its module: what it changes is found, and which operators it runs."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fastgan.layers._outside import Outside, set_profile
from fastgan.layers._twin import Twin
from fastgan.layers._values import CannotFuse, first_line, same, snapshot


def check(module: Module, forward: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Raises CannotFuse unless the new forward does what the old one does, on copies without data."""
    try:
        seen, truth = (_tried(module, function, inputs) for function in (forward, type(module).forward))
    except CannotFuse:
        raise
    except Exception as error:
        raise CannotFuse(f"its forward cannot be tried on tensors without data: {first_line(error)}") from None
    if not same(seen, truth):
        raise CannotFuse("its forward does something else for a tensor than torch.fx sees it do")


@contextmanager
def unchanged(twin: Twin) -> Iterator[None]:
    """Raises CannotFuse for what is changed inside: the twin, or the random generators, which are set back."""
    before = twin.state()
    with _random_kept() as drew:
        yield
    if not same(twin.state(), before):
        raise CannotFuse("its forward changes the module's own attributes")
    if drew():
        raise CannotFuse("its forward draws random numbers in a way that tracing would fix for good")


# ---- operators ------------------------------------------------------------------------------------------------------


class _Operators(TorchDispatchMode):
    """The operators that run, in which order, on which tensors, each known by a number in the order of its making."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.seen: list[list] = []
        self._numbers = {id(tensor): number for number, tensor in enumerate(tensors)}
        self._tensors = list(tensors)  # alive: an id is of what lives

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        watching = sys.getprofile()
        sys.setprofile(None)  # of an operator's own Python, which is torch's, thousands of calls would be seen
        try:
            given = self._described((args, kwargs or {}))
            found = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.detach.default:
                self._number(found, self._number(args[0]))
            else:
                self.seen.append([str(func), given, self._described(found)])
            return found
        finally:
            set_profile(watching)

    def _described(self, values: Any) -> Any:
        def described(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self._number(value), value.shape, value.dtype
            return float(value) if type(value) is int else snapshot(value, type)  # a slope of 0 is one of 0.0

        return tree_map(described, values)

    def _number(self, tensor: Tensor, number: int | None = None) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._tensors) if number is None else number
            self._tensors.append(tensor)
        return self._numbers[id(tensor)]


def _tried(module: Module, function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Any]:
    twin = Twin(module, runs=True)
    inputs = [input.detach().to("meta") for input in inputs]
    outside, operators = Outside(), _Operators([*inputs, *twin.tensors])
    with _random_kept(), torch.no_grad(), outside.watched(), operators:
        found = operators._described(function(twin.root, *inputs))
    return [operators.seen, found, twin.state(leaf=type), outside.changed]


# ---- random numbers -------------------------------------------------------------------------------------------------


_SEED = 1597334677  # not one that a forward would set: to the state that there is, it would do so unseen


@contextmanager
def _random_kept() -> Iterator[Callable[[], bool]]:
    """Sets the random generators back at the end; tells then whether any was drawn from."""
    before = _random_states()
    random.seed(_SEED)
    torch.default_generator.manual_seed(_SEED)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(_SEED)
    started = _random_states()
    drew = [False]
    try:
        yield lambda: drew[0]
    finally:
        drew[0] = _random_states() != started
        _restore_random(*before)


def _random_states() -> tuple:
    devices = [torch.get_rng_state()]
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        devices += torch.cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy")
    arrays = pickle.dumps(numpy.random.get_state(legacy=False)) if numpy else b""
    return random.getstate(), arrays, [bytes(state.tolist()) for state in devices]


def _restore_random(python: tuple, arrays: bytes, devices: list[bytes]) -> None:
    random.setstate(python)
    if arrays:
        sys.modules["numpy"].random.set_state(pickle.loads(arrays))
    first, *others = [torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in devices]
    torch.set_rng_state(first)
    if others:
        torch.cuda.set_rng_state_all(others)
