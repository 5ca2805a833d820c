"""Which chains torch's own modules run, remembered by module and input: finding out costs what there is to gain.

What is remembered is about speed alone, and does no harm where a module has been changed since.
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

_MOST = 64  # inputs of one module; with more, as where every image has a size of its own, all are forgotten

_known: WeakKeyDictionary[Module, dict[Hashable, bool]] = WeakKeyDictionary()


def is_torchs(input: Tensor, chain: Sequence[Members]) -> bool:
    """Whether torch's modules run a chain on a plain [N, C, H, W]: those of its device, or those too small to gain."""
    found = _engine.is_torchs(input.device.type)
    if torch.compiler.is_compiling():
        return found
    if not found and _engine.goes_by_size(input):
        blocks, parameters = zip(*(outline_of(members, input.dtype) for members in chain), strict=True)
        found = not _engine.is_worth_fusing(blocks, work_of(input, blocks, parameters))
    remember(chain[0].first(), input, len(chain), found)
    return found


def recall(module: Module, input: Tensor, kind: int) -> bool | None:
    """What was remembered of a module on such an input; None where nothing was."""
    known = _known.get(module)
    return None if known is None else known.get(_key(input, kind))


def remember(module: Module, input: Tensor, kind: int, is_torchs: bool) -> None:
    """Has :func:`recall` say so from now on; ``kind`` tells apart what is remembered of one module."""
    known = _known.setdefault(module, {})
    if len(known) >= _MOST:
        known.clear()
    known[_key(input, kind)] = is_torchs


def forget(modules: Iterable[Module]) -> None:
    """Forgets what was remembered of them."""
    for module in modules:
        _known.pop(module, None)


def _key(input: Tensor, kind: int) -> Hashable:
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return kind, input.shape, input.dtype, input.device.type, cast, _engine.mode
