"""``fastgan.layers.functional``, ``.utils.prune`` and the like are torch's own modules, not second copies of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_HERE, _THERE = "fastgan.layers.", "torch.nn."


class _Finder(MetaPathFinder, Loader):
    """Imports ``torch.nn.x`` where ``fastgan.layers.x`` is asked for; names with an underscore are fastgan's."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_HERE) or fullname.removeprefix(_HERE).startswith("_"):
            return None
        try:
            module = importlib.import_module(_THERE + fullname.removeprefix(_HERE))
        except ModuleNotFoundError:
            return None
        return ModuleSpec(fullname, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return spec.loader_state[0]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state[1]  # its own again, after what importing does


def install() -> None:
    """Once a process; first in line, because torch's packages would be searched for a second copy."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
