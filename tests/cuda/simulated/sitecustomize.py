"""Puts the simulated device under torch, and fastgan's CUDA library on it; Python runs this as it starts.

tools/rehearse_gpu.py builds what is loaded here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fastgan import _native

FOLDER = Path(os.environ["FASTGAN_SIMULATED"])


def install() -> None:
    path = _native._path
    _native._path = lambda device: FOLDER / "_cuda.so" if device == "cuda" else path(device)
    _native._why_not_covered = lambda device_index: ""
    import torch

    spec = importlib.util.spec_from_file_location("operators", FOLDER / "operators.so")
    operators = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(operators)
    torch.cuda.init()
    operators.install()
    torch.backends.cudnn.enabled = False


install()
