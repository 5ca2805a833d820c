"""A private copy of a module and all that it holds, to trace and to try: its tensors are stand-ins without data."""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from fastgan.layers._plan import WEIGHT_HOOKS
from fastgan.layers._values import CannotFuse, Unread, first_line, frozen, snapshot

_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_pre_hooks")


class Twin:
    """A copy of ``module`` with the modules, the tensors and the plain values below it, and without hooks.

    Other objects are copied where children may read them when they run (``runs``), else left out.
    """

    def __init__(self, module: Module, runs: bool = False) -> None:
        self.originals: dict[int, Module] = {}  # by the copy's id
        self.tensors: list[Tensor] = []
        self._runs = runs
        self._live_root = module
        self._memo: dict[int, Any] = {}
        try:
            self.root: Module = self._copy(module, False)
        except CannotFuse:
            raise
        except Exception as error:
            raise CannotFuse(f"it cannot be copied: {first_line(error)}") from None

    def state(self, leaf: Callable[[Any], Any] = lambda value: value) -> list[Any]:
        """All that a forward could change, for :func:`same`: each module's values, how often each tensor was written.

        ``leaf`` makes of an object what two copies have in common, if two are to be compared.
        """
        modules = [self._memo[id(original)] for original in self.originals.values()]
        values = [(type(module), snapshot(vars(module), leaf)) for module in modules]
        return [values, [tensor._version for tensor in self.tensors]]

    def _copy(self, value: Any, runs: bool) -> Any:
        if id(value) in self._memo:
            return self._memo[id(value)]
        kind = type(value)
        if isinstance(value, Module):
            return self._copy_module(value)
        if isinstance(value, Tensor):
            return self._remember(value, self._stand_in(value))
        if kind in (list, set):
            return self._remember(value, kind(self._copy(item, runs) for item in value))
        if kind is tuple or kind is functools.partial or kind is types.MethodType:
            return self._copy_immutable(value, runs)
        if kind in (dict, OrderedDict):
            return self._remember(value, kind((key, self._copy(item, runs)) for key, item in value.items()))
        try:
            return frozen(value, {})
        except TypeError:
            return copy.deepcopy(value, self._memo) if runs else self._remember(value, Unread(type(value)))

    def _copy_immutable(self, value: Any, runs: bool) -> Any:
        if type(value) is tuple:
            return tuple(self._copy(item, runs) for item in value)
        if type(value) is types.MethodType:
            return types.MethodType(value.__func__, self._copy(value.__self__, runs))
        arguments, named = self._copy(value.args, runs), self._copy(value.keywords, runs)
        return functools.partial(self._copy(value.func, runs), *arguments, **named)

    def _copy_module(self, module: Module) -> Module:
        twin = object.__new__(type(module))
        self._remember(module, twin)
        self.originals[id(twin)] = module
        runs = self._runs and module is not self._live_root
        if runs and isinstance(vars(module).get("forward"), types.FunctionType):
            raise CannotFuse(f"the forward of a {type(module).__name__} in it was replaced by a function")
        for name, value in vars(module).items():
            if name in _HOOKS:
                value = OrderedDict((key, hook) for key, hook in value.items() if isinstance(hook, WEIGHT_HOOKS))
                vars(twin)[name] = copy.deepcopy(value)
            elif name == "_compiled_call_impl":
                vars(twin)[name] = None  # it calls the module itself
            else:
                vars(twin)[name] = self._copy(value, runs)
        return twin

    def _stand_in(self, tensor: Tensor) -> Tensor:
        stand_in = tensor.detach().to("meta")
        if tensor.is_meta:
            stand_in = torch.empty_like(stand_in)
        if isinstance(tensor, Parameter):
            stand_in = Parameter(stand_in, requires_grad=tensor.requires_grad)
        self.tensors.append(stand_in)
        return stand_in

    def _remember(self, value: Any, copied: Any) -> Any:
        self._memo[id(value)] = copied
        self._memo.setdefault(id(self._memo), []).append(value)  # as deepcopy does: ids are of what lives
        return copied
