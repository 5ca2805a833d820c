"""What Python reads of a module while its forward is traced: the traced forward holds while that is the same.

Attributes are seen as torch.fx sees parameters, by a method that ``torch.nn.Module`` has meanwhile; what they are is
looked up again, by the same paths, whenever the module is called.
"""

from __future__ import annotations

import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, fx
from torch.nn import Module

from fastgan.layers._outside import Outside, Place
from fastgan.layers._twin import Twin
from fastgan.layers._values import CannotFuse, Missing, frozen, same

# A module's own bookkeeping, of which only the children's names are kept track of.
_WHOLE = {name for name in vars(Module()) if name.startswith("_") and name != "_modules"} | {"__dict__"}


class Child(NamedTuple):
    """A place in the tree that was read, by its parent's number among those; it tells no module from its copy."""

    parent: int
    name: str
    type: type[Module] | type[None]
    first: int  # the number of the first place with the same module


class Reads:
    """What was read of a module, and of what lies outside of it."""

    def __init__(self, module: Module) -> None:
        self.type, self.forward = type(module), type(module).forward
        self.children: list[Child] = []  # numbered from 1; the module itself has the number 0
        self.distinct = 1  # how many modules are at all those places
        self.names: dict[int, list[str]] = {}  # of all the children of a module
        self.values: dict[tuple[int, str], Any] = {}
        self.methods: dict[tuple[int, str], Any] = {}
        self.tensors: dict[tuple[int, str, str], bool] = {}  # parameters and buffers: whether they are None
        self.outside: dict[tuple[int, str], tuple[Place, Any]] = {}

    def hold(self, module: Module) -> bool:
        """Whether all of it is the same in ``module`` now. It is asked at every forward, so it has to be quick."""
        if type(module) is not self.type or self.type.forward is not self.forward:
            return False
        found: list[Any] = [module]
        for parent, name, kind, first in self.children:
            child = found[parent]._modules.get(name)
            found.append(child)
            if type(child) is not kind or found[first] is not child:
                return False
        if len(set(map(id, found))) != self.distinct:
            return False
        for (number, name), value in self.values.items():
            now = getattr(found[number], name, Missing)
            if now is not value and not same(now, value):
                return False
        for (number, name), function in self.methods.items():
            if getattr(getattr(found[number], name, None), "__func__", None) is not function:
                return False
        for (number, table, name), is_none in self.tensors.items():
            if (getattr(found[number], table).get(name) is None) is not is_none:
                return False
        for place, value in self.outside.values():
            now = place.get()
            if now is not value and not same(now, value):
                return False
        return all(list(found[number]._modules) == names for number, names in self.names.items())


class Recorder:
    """Notes what is read of a twin, as reads of the module that it is the twin of."""

    def __init__(self, twin: Twin, reads: Reads) -> None:
        self._twin, self._reads = twin, reads
        self._paths = {id(module): path for path, module in twin.root.named_modules()}
        for module in twin.root.modules():
            if type(module).__getattribute__ is not object.__getattribute__:
                raise CannotFuse(f"{type(module).__name__} looks up attributes by a method of its own")
        self._numbers = {id(twin.root): 0}
        self._at: dict[tuple[int, str], int] = {}
        self._thread = threading.get_ident()
        self._is_on = False
        self._refused: CannotFuse | None = None

    def is_here(self) -> bool:
        """Whether this thread is the one that traces: torch.fx and this change methods for all of them."""
        return threading.get_ident() == self._thread

    def recorded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with what it reads noted; raises CannotFuse for what it must not read or change."""

        def call(*arguments: Any) -> Any:
            outside = Outside()
            try:
                with _seen_by(self), outside.watched():
                    self._is_on = True
                    found = function(*arguments)
            finally:
                self._is_on = False
                self._reads.outside.update(outside.values)
                if self._refused is not None:  # the forward may have caught it
                    raise self._refused
            if outside.changed:
                raise CannotFuse(f"its forward changes {outside.changed[0][0]!r}, which is not its own")
            return found

        return call

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, torch.fx reads, and not the forward."""
        before, self._is_on = self._is_on, False
        try:
            yield
        finally:
            self._is_on = before

    def note(self, module: Module, name: str, value: Any) -> None:
        """Notes that ``name`` was read of a module."""
        if not self._is_on or id(module) not in self._paths:
            return
        with self.paused():
            try:
                self._note(module, name, value)
            except CannotFuse as reason:
                self._refused = self._refused or reason
                raise

    def refuse_to_set(self, module: Module, name: str) -> None:
        """Raises CannotFuse where the forward sets an attribute: what it has already would be set to no effect."""
        if self.is_here() and self._is_on and id(module) in self._paths:
            self._refused = self._refused or CannotFuse(f"its forward sets {_said(module, name)}")
            raise self._refused

    def _note(self, module: Module, name: str, value: Any) -> None:
        reader = sys._getframe(3).f_globals.get("__name__", "")
        if reader.startswith("torch.fx") or (name == "__dict__" and reader.startswith("torch.")):
            return
        if name in _WHOLE:
            raise CannotFuse(f"its forward reads {_said(module, name)} as a whole, of which fastgan cannot keep track")
        number = self._number_of(module)
        key = (number, name)
        if name == "_modules":
            self._reads.names[number] = list(value)
            for child_name, child in value.items():
                self._number_of_child(number, child_name, child)
        elif value is Missing:
            self._note_registered(module, number, name)
        elif isinstance(value, types.MethodType) and value.__self__ is module:
            self._reads.methods[key] = value.__func__
        elif not isinstance(inspect.getattr_static(type(module), name, None), property):  # they read others
            self._reads.values[key] = self._frozen(module, name, value)

    def _note_registered(self, module: Module, number: int, name: str) -> None:
        """What ``__getattr__`` is asked for: a child, a parameter, a buffer, or nothing."""
        if name in module._modules:
            self._number_of_child(number, name, module._modules[name])
            return
        for table in ("_parameters", "_buffers"):
            if name in getattr(module, table):
                self._reads.tensors[number, table, name] = getattr(module, table)[name] is None
                return
        if not isinstance(inspect.getattr_static(type(module), name, None), property):
            self._reads.values[number, name] = Missing

    def _frozen(self, module: Module, name: str, value: Any) -> Any:
        if isinstance(value, fx.Proxy):  # set by the forward itself, which is seen afterwards
            return value
        if isinstance(value, Tensor):
            raise CannotFuse(f"its forward reads {_said(module, name)}, a tensor that is neither parameter nor buffer")
        try:
            return frozen(value, self._twin.originals)
        except TypeError as kind:
            raise CannotFuse(
                f"its forward reads {_said(module, name)}, {kind}, which may change without fastgan seeing it"
            ) from None

    def _number_of(self, module: Module) -> int:
        """Of a module in the tree, with those above it."""
        number, at = 0, self._twin.root
        if (known := self._numbers.get(id(module))) is not None:
            return known
        for name in self._paths[id(module)].split("."):
            at = at._modules[name]
            number = self._number_of_child(number, name, at)
        return number

    def _number_of_child(self, parent: int, name: str, child: Module | None) -> int:
        children = self._reads.children
        if (known := self._at.get((parent, name))) is not None:
            return known
        number = self._at[parent, name] = len(children) + 1
        first = self._numbers.setdefault(id(child), number)
        self._reads.distinct += first == number
        children.append(Child(parent, name, type(child), first))
        return number


def _said(module: Module, name: str) -> str:
    return f"{name!r} of {type(module).__name__}"


# ---- for the thread that traces --------------------------------------------------------------------------------------


@contextmanager
def _seen_by(recorder: Recorder) -> Iterator[None]:
    """Has ``recorder`` told of what this thread reads and sets of modules."""
    set_attribute, delete_attribute = Module.__setattr__, Module.__delattr__

    def __getattribute__(module: Module, name: str) -> Any:
        if not recorder.is_here():
            return object.__getattribute__(module, name)
        try:
            value = object.__getattribute__(module, name)
        except AttributeError:
            recorder.note(module, name, Missing)
            raise
        recorder.note(module, name, value)
        return value

    def __setattr__(module: Module, name: str, value: Any) -> None:
        recorder.refuse_to_set(module, name)
        set_attribute(module, name, value)

    def __delattr__(module: Module, name: str) -> None:
        recorder.refuse_to_set(module, name)
        delete_attribute(module, name)

    Module.__getattribute__, Module.__setattr__, Module.__delattr__ = __getattribute__, __setattr__, __delattr__
    try:
        yield
    finally:
        del Module.__getattribute__
        Module.__setattr__, Module.__delattr__ = set_attribute, delete_attribute
