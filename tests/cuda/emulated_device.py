"""A pytest plugin: the operators of CPU tensors run on the CUDA library, emulated (emulated_library.h)."""

from __future__ import annotations

import os
from pathlib import Path

from fastgan import _native

LIBRARIES = {"cpu": Path(os.environ["FASTGAN_EMULATED_LIBRARY"]), "cuda": Path("none")}

assert not _native._state, "the libraries are loaded already"
_native._path = LIBRARIES.__getitem__
