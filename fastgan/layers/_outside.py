"""What functions of a user's own read besides their arguments: globals, closures, attributes of files and classes."""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import gc
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import fx
from torch.fx import _symbolic_trace
from torch.nn import Module

from fastgan.layers._values import CannotFuse, Missing, frozen, restore, same, snapshot

# Their functions decide by nothing that a user changes in passing, or the trial and the second trace see it.
_TRUSTED = {"torch", "numpy", "fastgan"}


class Place(NamedTuple):
    """Where a name is looked up: the variables of a file, a class, or a function's cell."""

    holder: dict[str, Any] | type | types.CellType
    name: str

    def get(self) -> Any:
        """The value there is now."""
        if isinstance(self.holder, types.CellType):
            try:
                return self.holder.cell_contents
            except ValueError:
                return Missing
        return (vars(self.holder) if isinstance(self.holder, type) else self.holder).get(self.name, Missing)

    def put(self, value: Any) -> None:
        """Undoes an assignment."""
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif isinstance(self.holder, type):
            delattr(self.holder, self.name) if value is Missing else setattr(self.holder, self.name, value)
        elif value is Missing:
            del self.holder[self.name]
        else:
            self.holder[self.name] = value


class Outside:
    """Notes what is read while functions run inside :meth:`watched`; what cannot be compared later is refused."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, str], tuple[Place, Any]] = {}
        self._base: types.FrameType | None = None
        self.changed: list[tuple[str, Any]] = []  # what names were given
        self._before: list[tuple[Place, Any, Any]] = []
        self._passed: set[tuple[int, int]] = set()  # code that need not be looked at again
        self._refused: CannotFuse | None = None
        self._alive: list[Any] = []  # an id is of what lives
        self._nested: set[int] = set()  # code inside of code that ran: its cells are local

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Takes back at the end what functions change outside."""
        profile, collects = sys.getprofile(), gc.isenabled()
        self._base = sys._getframe(2)  # whoever entered this
        gc.disable()  # its callbacks would seem to be called by whatever function is running
        try:
            sys.setprofile(self._profile)
            yield
            if self._refused is not None:
                raise self._refused
        finally:
            sys.setprofile(None)
            self._base = None
            set_profile(profile)
            if collects:
                gc.enable()
            for place, value, content in self._before:
                self._take_back(place, value, content)

    def _take_back(self, place: Place, value: Any, content: Any) -> None:
        if (now := place.get()) is not value:
            self.changed.append((place.name, snapshot(now, type)))
            place.put(value)
        if not same(snapshot(value), content):
            self.changed.append((place.name, snapshot(value, type)))
            restore(value, content)

    def _profile(self, frame: types.FrameType, event: str, argument: Any) -> None:
        try:
            if event == "call":
                self._called(frame)
            elif argument is print and event == "c_call" and not _is_trusted(frame):
                raise CannotFuse("its forward prints, which tracing would leave out")
        except CannotFuse as reason:
            self._refused = reason  # the forward may catch it
            raise

    def _called(self, frame: types.FrameType) -> None:
        code = frame.f_code
        key: tuple[int, ...] = (id(code), id(frame.f_globals))
        if key in self._passed:
            return
        if _is_trusted(frame) or self._is_importing(frame):
            self._passed.add(key)
            self._alive.append(code)
            return
        free = code.co_freevars if id(code) not in self._nested else ()
        values = [frame.f_locals.get(name) for name in free]
        key += tuple(map(id, values))  # the same code is another function with other cells
        if key not in self._passed:
            self._passed.add(key)
            self._alive += (code, values)
            self._note_function(frame, bool(free))

    def _is_importing(self, frame: types.FrameType | None) -> bool:
        """Whether an import somewhere in torch called it, such as a test runner's hook."""
        while frame is not None and frame is not self._base:
            if frame.f_globals.get("__name__") == "importlib._bootstrap":
                return True
            frame = frame.f_back
        return False

    def _note_function(self, frame: types.FrameType, has_cells: bool) -> None:
        code = frame.f_code
        self._nested.update(id(c) for c in code.co_consts if isinstance(c, types.CodeType))
        places = [
            Place(frame.f_globals, name)
            for name in _globals_of(code)
            if name in frame.f_globals or not hasattr(builtins, name)
        ]
        if has_cells:
            places += _cells(frame)
        values = [self._note(place) for place in places]
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if isinstance(owner, Module):
            values.append(type(owner))
        for name in code.co_names:
            if not name.startswith("__"):
                for value in values:
                    self._note_attribute(value, name)

    def _note_attribute(self, value: Any, name: str) -> None:
        """Of a class or a file of a user's own, which the function may read by name."""
        if isinstance(value, types.ModuleType) and not _is_name_trusted(value.__name__):
            owners = [vars(value)]
        elif isinstance(value, type) and not issubclass(value, enum.Enum):
            owners = [owner for owner in value.__mro__ if not _is_name_trusted(owner.__module__)]
        else:
            return
        places = [Place(owner, name) for owner in owners]
        if any(place.get() is not Missing for place in places):
            for place in places:  # all: `super()` reads the others, and what one has not yet would come before theirs
                self._note(place)

    def _note(self, place: Place) -> Any:
        value = place.get()
        if isinstance(value, fx.Proxy):  # a local of the traced forward
            return value
        if isinstance(value, types.FunctionType) and value.__code__.co_filename == _symbolic_trace.__file__:
            value = value.__wrapped__  # torch.fx replaces functions such as math.sqrt while it traces
        key = (id(place.holder), place.name)
        if key not in self.values:
            try:
                self.values[key] = (place, frozen(value, {}))
            except TypeError as kind:
                raise CannotFuse(
                    f"its forward reads {place.name!r}, {kind}, which may change without fastgan seeing it"
                ) from None
            now = place.get()
            self._before.append((place, now, snapshot(now)))
        return value


def set_profile(profile: Any) -> None:
    """Sets what ``sys.getprofile`` gave."""
    if hasattr(profile, "enable"):  # cProfile's own cannot be set as a function
        profile.enable()
    else:
        sys.setprofile(profile)


@functools.lru_cache(maxsize=1024)
def _globals_of(code: types.CodeType) -> list[str]:
    """Those that it sets too: setting what is there already would be seen only once that has changed."""
    return list(dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname.endswith(("_GLOBAL", "_NAME"))))


def _is_trusted(frame: types.FrameType) -> bool:
    return _is_name_trusted(frame.f_globals.get("__name__", ""))


@functools.lru_cache(maxsize=1024)
def _is_name_trusted(name: Any) -> bool:
    root = str(name).partition(".")[0]
    if root not in sys.stdlib_module_names:
        return root in _TRUSTED
    path = getattr(sys.modules.get(root), "__file__", None)  # a user's own may be called so too, such as test or code
    return path is None or os.path.dirname(path).startswith(os.path.dirname(os.__file__))


def _cells(frame: types.FrameType) -> list[Place]:
    """The cells of all functions that this call may be of: a frame does not tell its function."""
    code, found = frame.f_code, []
    for function in gc.get_referrers(code):
        if isinstance(function, types.FunctionType) and function.__closure__:
            cells = [Place(*pair) for pair in zip(function.__closure__, code.co_freevars, strict=True)]
            if all(place.get() is frame.f_locals.get(place.name, Missing) for place in cells):
                found += cells
    if not found:
        raise CannotFuse(f"its forward calls {code.co_name!r}, whose closure fastgan cannot find")
    return found
