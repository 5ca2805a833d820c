"""Values that a forward may read: which can be compared later by content or by identity, and how."""

from __future__ import annotations

import enum
import functools
import types
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Module


class CannotFuse(Exception):
    """Why a module keeps its own forward."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class Missing:
    """In the place of an attribute that there is not."""


class Unread:
    """In the place of an object that is not copied, because a forward that reads it is not traced."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __bool__(self) -> bool:
        raise CannotFuse(
            f"its forward asks about an object of type {self.kind.__name__} that it did not read when traced"
        )


_CONTENT = (bool, int, float, complex, str, bytes, range, slice, torch.dtype, torch.device)
# Nothing changes inside them, or what does is read by a function of its own that runs.
_IDENTITY = (
    *(type(None), type(...), type(NotImplemented), type, enum.Enum, torch.layout, torch.memory_format),
    *(types.ModuleType, types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(types.MemberDescriptorType, types.GetSetDescriptorType, type(namedtuple("_", "field").field)),
    *(property, staticmethod, classmethod, functools.cached_property, functools.partialmethod),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket),
)
_DICTS = (dict, OrderedDict)
_SEQUENCES = (list, tuple, torch.Size)
_SETS = (set, frozenset)


def frozen(value: Any, originals: dict[int, Module]) -> Any:
    """``value`` for comparing later ones with: containers copied, and copies of modules as what they are copies of.

    Raises:
        TypeError: for what may change without being another value, such as a configuration object.
    """
    kind = type(value)
    if isinstance(value, (*_CONTENT, *_IDENTITY)) or kind in _SETS:
        return kind(value) if kind in _SETS else value
    if kind in _DICTS:
        return kind((frozen(key, originals), frozen(item, originals)) for key, item in value.items())
    if kind in _SEQUENCES:
        return kind([frozen(item, originals) for item in value])
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind(*(frozen(item, originals) for item in value))
    if kind is functools.partial:
        parts = frozen([value.func, value.args, value.keywords], originals)
        return functools.partial(parts[0], *parts[1], **parts[2])
    if kind is types.MethodType:
        return types.MethodType(value.__func__, frozen(value.__self__, originals))
    if kind is types.BuiltinFunctionType and isinstance(value.__self__, (type(None), types.ModuleType, type)):
        return value
    if id(value) in originals:
        return originals[id(value)]
    raise TypeError(f"an object of type {(value.kind if kind is Unread else kind).__name__}")


def same(now: Any, before: Any) -> bool:
    """Whether ``now`` is what ``before`` is, or a copy of."""
    if now is before:
        return True
    kind = type(before)
    if type(now) is not kind:
        return False
    if isinstance(before, _CONTENT):
        return now == before
    if kind in _DICTS:
        return list(now) == list(before) and all(map(same, now.values(), before.values()))
    if isinstance(before, (list, tuple)):
        return len(now) == len(before) and all(map(same, now, before))
    if kind in _SETS or kind is types.BuiltinFunctionType:
        return now == before
    if kind is functools.partial:
        return all(map(same, (now.func, now.args, now.keywords), (before.func, before.args, before.keywords)))
    if kind is types.MethodType:
        return now.__func__ is before.__func__ and now.__self__ is before.__self__
    return False


def snapshot(value: Any, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """``value`` with its containers copied, for comparing it with itself later; ``leaf`` replaces other objects."""
    kind = type(value)
    if kind in _DICTS:
        return kind((key, snapshot(item, leaf)) for key, item in value.items())
    if kind in (list, tuple):
        return kind(snapshot(item, leaf) for item in value)
    if kind in _SETS:
        return kind(value)
    return value if isinstance(value, (*_CONTENT, *_IDENTITY)) else leaf(value)


def restore(holder: Any, before: Any) -> None:
    """Puts the items of a snapshot back into the container that it was taken of."""
    if isinstance(holder, list):
        holder[:] = before
    elif isinstance(holder, (dict, set)):
        holder.clear()
        holder.update(before)
