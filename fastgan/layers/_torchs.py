"""What torch's own modules run, remembered by module and input: finding out costs what there is to gain.

What is remembered is about speed alone: where a module has been changed since, the results are right all the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from fastgan.layers._plan import Members, outline_of
from fastgan.ops import _engine
from fastgan.ops.run import work_of

Key = tuple[Hashable, ...]
Layout = tuple[int, ...]  # of modules called in order: of each chain how many of them it takes, and 0 for one by itself

_MOST = 64  # things of one module; with more, as where every image has a size of its own, all are forgotten

_known: WeakKeyDictionary[Module, dict[Key, bool | Layout]] = WeakKeyDictionary()


def key_of(input: Tensor, modules: Iterable[object]) -> Key:
    """What it goes by whether a chain of these modules is torch's."""
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return (input.shape, input.dtype, input.device.type, cast, _engine.mode, *map(id, modules))


def recall(module: Module, key: Key) -> bool | Layout | None:
    """What was remembered of a module under a key; None where nothing was."""
    known = _known.get(module)
    return None if known is None else known.get(key)


def remember(module: Module, key: Key, found: bool | Layout) -> None:
    """Has :func:`recall` say so from now on."""
    known = _known.setdefault(module, {})
    if len(known) >= _MOST:
        known.clear()
    known[key] = found


def forget(modules: Iterable[Module]) -> None:
    """Forgets what was remembered of them."""
    for module in modules:
        _known.pop(module, None)


def are_torchs(input: Tensor, chain: Sequence[Members]) -> bool | None:
    """Whether a chain on a plain [N, C, H, W] is torch's: all are on its device, or it is too small to gain.

    None where that cannot be said for now.
    """
    if _engine.is_torchs(input.device.type):
        return True
    if torch.compiler.is_compiling() or not _engine.goes_by_size(input):
        return False
    blocks, parameters = zip(*(outline_of(members, input) for members in chain), strict=True)
    try:
        work = work_of(input, blocks, parameters)
    except RuntimeError:  # a weight is not as its module says, or a mode knows no such operator: the run will see
        return None
    return not _engine.is_worth_fusing(blocks, work)
