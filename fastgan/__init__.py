"""Fused native kernels for the convolutional networks of GANs, as drop-in ``torch.nn`` modules, and a trainer.

Importing this package imports neither torch nor its own submodules: they are imported when they are first used, so that
``fastgan --help`` answers at once. The native operators are loaded with the first submodule that needs them, or right
here if torch is already imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fastgan import _native

if TYPE_CHECKING:
    from fastgan import data, evaluation, export, latents, layers, losses, metrics, models, ops, training
    from fastgan.generation import load
    from fastgan.layers._explain import explain
    from fastgan.layers._fuse import fuse, unfuse

__version__ = "0.1.0"

__all__ = [
    "data",
    "evaluation",
    "explain",
    "export",
    "fuse",
    "info",
    "latents",
    "layers",
    "load",
    "losses",
    "metrics",
    "models",
    "ops",
    "training",
    "unfuse",
]

_SUBMODULES = {"data", "evaluation", "export", "latents", "layers", "losses", "metrics", "models", "ops", "training"}
# name: the module that defines it
_FUNCTIONS = {
    "explain": "fastgan.layers._explain",
    "fuse": "fastgan.layers._fuse",
    "load": "fastgan.generation",
    "unfuse": "fastgan.layers._fuse",
}


def info() -> dict[str, Any]:
    """What this installation is and can do.

    Returns a dict: ``version``; ``torch``, its version; ``build``, how the native libraries were compiled (compiler,
    flags, instruction sets, torch, and ``cuda``: the GPU architectures, or the sentence why there are none);
    ``cpu_isa``, the instruction set in use; ``keeps_heap``, whether freed memory stays with the process (the trainer's
    choice, or ``FASTGAN_KEEP_HEAP=1``); ``ops``, the operators loaded for each device; ``libraries``, "loaded" or
    the reason why not for each native library.
    """
    return {"version": __version__, **_native.info()}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastgan.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_native.check_files()
if "torch" in sys.modules:
    _native.load()
