"""The native libraries: loading them, and saying why one is not loaded.

Three files lie beside this one. ``_cpu.so`` and ``_cuda.so`` register operators with torch's dispatcher; ``_C`` is a small
Python module with build facts, CPU features and kernel counters. Any of them may be missing: the package still imports,
with one warning, and torch's own kernels do the work. Under ``FASTGAN_STRICT=1`` that is an error instead.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from fastgan.errors import UserError, strict, warn_once

__all__ = [
    "check_files",
    "counters",
    "cuda_covered",
    "info",
    "last_kernels",
    "load",
    "loaded",
    "reason",
    "reset_counters",
]

FOLDER = Path(__file__).resolve().parent
LOADED = "loaded"

_state: dict[str, str] = {}  # "cpu", "cuda", "_C": LOADED, or why not
_module: ModuleType | None = None


def check_files() -> None:
    """Warn, without importing torch, where the package has no compiled operators at all."""
    if not _library("cpu").is_file():
        _complain(_missing())


def load() -> None:
    """Load what there is; the first call does it. Raises UserError where FASTGAN_CPU_ISA is unknown."""
    if not _state:
        _load_module()
        _check_isa()
        _state["cpu"] = _load_library("cpu")
        _state["cuda"] = _load_library("cuda") if _state["cpu"] == LOADED else "it needs _cpu.so, which is not loaded"
        for name in ("cpu", "cuda"):
            if not loaded(name) and _library(name).is_file() and not _torch_lacks_cuda(name):
                _complain(f"fastgan's {_library(name)} cannot be loaded and torch's kernels are used: {reason(name)}.")
        if not loaded("cpu"):
            check_files()


def loaded(device: str) -> bool:
    """Whether the operators for ``device``, "cpu" or "cuda", are registered."""
    load()
    return _state[device] == LOADED


def reason(device: str) -> str:
    """Why the operators for ``device`` are not loaded; empty where they are."""
    return "" if loaded(device) else _state[device]


@functools.cache
def cuda_covered(device_index: int) -> bool:
    """Whether the operators run on this GPU: ``_cuda.so`` is loaded and was built for its architecture.

    One warning says why not.
    """
    if not loaded("cuda"):
        _complain(f"fastgan's CUDA kernels are not there and torch's are used: {reason('cuda')}.")
        return False
    import torch

    capability = torch.cuda.get_device_capability(device_index)
    archs = build_info().get("cuda", [])
    if not isinstance(archs, list) or covers(archs, capability):
        return True
    major, minor = capability
    _complain(
        f"fastgan was built for {', '.join(archs)}, which does not cover {torch.cuda.get_device_name(device_index)} "
        f"(sm_{major}{minor}), so torch's kernels are used there; reinstall fastgan with "
        f"TORCH_CUDA_ARCH_LIST='{major}.{minor}'."
    )
    return False


def covers(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for ``archs`` runs on a GPU of this compute capability.

    Machine code (``sm_80``) runs on its own major version from its minor on; with the suffix ``a``, on exactly its own
    version, with ``f``, as without. PTX (``compute_80``) is compiled by the driver for all that come after; with a
    suffix it is bound in the same way.
    """

    def one(arch: str) -> bool:
        kind, number = arch.split("_")
        suffix = number[-1] if number[-1] in "af" else ""
        digits = number.rstrip("af")
        built = (int(digits[:-1]), int(digits[-1]))
        if suffix == "a":
            return capability == built
        if kind == "sm" or suffix == "f":
            return capability[0] == built[0] and capability[1] >= built[1]
        return capability >= built

    return any(one(arch) for arch in archs)


# ---- facts and counters ----------------------------------------------------------------------------------------------


def build_info() -> dict[str, Any]:
    """How the libraries were built; empty where ``_C`` is not loaded."""
    load()
    return _module.build_info() if _module else {}


def counters() -> dict[str, int]:
    """{"op/kernel": calls since the last reset}; empty where ``_C`` is not loaded."""
    load()
    return _module.kernel_counters() if _module else {}


def last_kernels() -> dict[str, str]:
    """{op: the kernel it last ran}, of those run since the last reset."""
    load()
    return _module.last_kernels() if _module else {}


def reset_counters() -> None:
    """Set every kernel counter to zero."""
    load()
    if _module:
        _module.reset_counters()


def info() -> dict[str, Any]:
    """What :func:`fastgan.info` says, but for the version."""
    import torch

    load()
    return {
        "torch": torch.__version__,
        "build": build_info() or f"unknown: _C is not loaded ({_state['_C']})",
        "cpu_isa": _module.cpu_isa() if _module else "unknown",
        "ops": {device: _registered(device) for device in ("cpu", "cuda")},
        "libraries": {"_C": _state["_C"], "_cpu": _state["cpu"], "_cuda": _state["cuda"]},
    }


# ---- loading ----------------------------------------------------------------------------------------------------------


def _load_module() -> None:
    global _module
    try:
        _module = importlib.import_module("fastgan._C")
        _state["_C"] = LOADED
    except ImportError as error:
        built = [path.name for path in FOLDER.glob("_C.*.so")]
        version = ".".join(map(str, sys.version_info[:2]))
        _state["_C"] = f"this is Python {version}, and it was built as {built[0]}" if built else str(error)


def _check_isa() -> None:
    if _module:
        try:
            _module.cpu_isa()
        except ValueError as error:
            raise UserError(str(error)) from None


def _load_library(device: str) -> str:
    """LOADED, or why not."""
    import torch

    path = _library(device)
    if not path.is_file():
        return str(build_info_cuda()) if device == "cuda" else _missing()
    if _torch_lacks_cuda(device):
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.ops.load_library(str(path))
        if _module:
            _module.attach(str(path))
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return LOADED


def build_info_cuda() -> object:
    return _module.build_info()["cuda"] if _module else "this build has no _cuda.so"


def _torch_lacks_cuda(device: str) -> bool:
    import torch

    return device == "cuda" and torch.version.cuda is None


def _library(device: str) -> Path:
    return FOLDER / f"_{device}.so"


def _missing() -> str:
    root = FOLDER.parent
    if (root / "setup.py").is_file() and (root / "csrc").is_dir():
        return (
            f"fastgan is imported from the source tree {root}, which has no compiled libraries, so torch's kernels are "
            "used; run `pip install -e .` there, or leave the folder so that Python finds the installed package"
        )
    return (
        f"fastgan in {FOLDER} has no _cpu.so, so torch's kernels are used; "
        "reinstall it with `pip install --force-reinstall --no-deps fastgan`"
    )


def _registered(device: str) -> list[str]:
    import torch

    names = [name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::")]
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return sorted({name.split("::")[1].lstrip("_") for name in names if has(name, device.upper())})


def _complain(sentence: str) -> None:
    if strict():
        raise RuntimeError(sentence)
    warn_once(sentence, sentence)
