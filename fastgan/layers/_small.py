"""Runs so small that torch's own modules are faster.

Which they are is remembered by module and input, since finding out costs more than there is to gain. What is
remembered is about speed alone, and does no harm where a module has been changed since.
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


def is_small(input: Tensor, chain: Sequence[Members]) -> bool:
    """Whether a chain on a plain [N, C, H, W] is better run by torch's modules."""
    if torch.compiler.is_compiling() or not _engine.goes_by_size(input):
        return False
    found = recall(chain[0].first(), input, len(chain))
    if found is None:
        blocks, parameters = zip(*(outline_of(members, input.dtype) for members in chain), strict=True)
        found = not _engine.is_worth_fusing(blocks, work_of(input, blocks, parameters))
        remember(chain[0].first(), input, len(chain), found)
    return found


def was_small(input: Tensor, chain: Sequence[Members]) -> bool:
    """What :func:`is_small` said; False where nobody asked."""
    return recall(chain[0].first(), input, len(chain)) is True


def recall(module: Module, input: Tensor, kind: int) -> bool | None:
    """What was remembered of a module on such an input; ``kind`` tells apart what is remembered of one."""
    known = _known.get(module)
    return known.get(_key(input, kind)) if known is not None and input.is_cpu else None


def remember(module: Module, input: Tensor, kind: int, is_small: bool) -> None:
    """Has :func:`recall` give ``is_small`` from now on."""
    known = _known.setdefault(module, {})
    if len(known) >= _MOST:
        known.clear()
    known[_key(input, kind)] = is_small


def forget(modules: Iterable[Module]) -> None:
    """Forgets what was remembered of them."""
    for module in modules:
        _known.pop(module, None)


def _key(input: Tensor, kind: int) -> Hashable:
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return kind, input.shape, input.dtype, cast, _engine.mode
