"""The native libraries: loading them, and saying why one is not loaded.

Three files lie beside this one. ``_cpu.so`` and ``_cuda.so`` register operators with torch's dispatcher; ``_C`` is a
small Python module with build facts, CPU features and kernel counters. Any of them may be missing: the package still
imports, with one warning, and torch's own kernels do the work. Under ``FASTGAN_STRICT=1`` that is an error instead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fastgan.errors import UserError, strict, warn_once

__all__ = [
    "build_info",
    "check_files",
    "counters",
    "cuda_covered",
    "engine_rules",
    "gemm_peak",
    "info",
    "keep_heap",
    "kernel_seconds",
    "last_kernels",
    "load",
    "loaded",
    "reason",
    "reset_counters",
    "take_trace",
    "timed_kernels",
]

FOLDER = Path(__file__).resolve().parent
LOADED = "loaded"
OLDEST_TORCH = (2, 11)

Trace = tuple[tuple[str, ...], ...]  # "op/kernel", in parts; the same object whenever the same kernels ran

_lock = threading.RLock()
_state: dict[str, str] = {}  # "_C", "cpu", "cuda": LOADED, or why not; empty until load()
_covered: dict[int, bool] = {}  # by device index
_module: ModuleType | None = None  # fastgan._C
_keeps_heap = False


def check_files() -> None:
    """Warn, without importing torch, where the package has no compiled operators at all."""
    if not _path("cpu").is_file():
        _complain(f"{_no_library()}.")


def load() -> None:
    """Load what there is; the first call does it.

    Raises:
        UserError: where FASTGAN_CPU_ISA or FASTGAN_STRICT is unknown.
        RuntimeError: under FASTGAN_STRICT=1, where a library is missing or cannot be loaded.
    """
    global _module
    with _lock:
        if _state:
            return
        strict()  # an unknown value is told at once, and not only where something is missing
        _module, module_state = _import_module()
        cpu = _load_library("cpu")
        cuda = _load_library("cuda") if cpu == LOADED else "it needs _cpu.so, which is not loaded"
        _state.update({"_C": module_state, "cpu": cpu, "cuda": cuda})
    if os.environ.get("FASTGAN_KEEP_HEAP", "0") not in ("", "0"):
        keep_heap()
    check_files()
    if cpu != LOADED and _path("cpu").is_file():
        _complain(f"fastgan cannot load {_path('cpu')}, so torch's kernels are used: {cpu}.")
    elif cuda != LOADED and _path("cuda").is_file() and _torch_has_cuda():
        _complain(f"fastgan cannot load {_path('cuda')}, so torch's kernels are used on GPUs: {cuda}.")
    elif cpu == LOADED and module_state != LOADED:  # no kernel is missing, so this never raises
        sentence = f"fastgan cannot load fastgan._C, so kernel counters and build facts are missing: {module_state}."
        warn_once(sentence, sentence)


def loaded(device: str) -> bool:
    """Whether the operators for ``device``, "cpu" or "cuda", are registered."""
    if not _state:
        load()
    return _state[device] == LOADED


def reason(device: str) -> str:
    """Why the operators for ``device`` are not loaded; empty where they are."""
    return "" if loaded(device) else _state[device]


def cuda_covered(device_index: int) -> bool:
    """Whether the operators run on this GPU: ``_cuda.so`` is loaded and was built for its architecture.

    One warning says why not.
    """
    if device_index not in _covered:
        why_not = _why_not_covered(device_index)
        _covered[device_index] = not why_not
        if why_not:
            _complain(why_not)
    return _covered[device_index]


def _why_not_covered(device_index: int) -> str:
    import torch

    if not loaded("cuda"):
        return f"fastgan's CUDA kernels are not loaded, so torch's are used: {reason('cuda')}."
    major, minor = torch.cuda.get_device_capability(device_index)
    archs = build_info().get("cuda")
    if not isinstance(archs, list) or covers(archs, (major, minor)):  # without _C nothing is known against it
        return ""
    return (
        f"fastgan was built for {', '.join(archs)}, which does not cover {torch.cuda.get_device_name(device_index)} "
        f"(sm_{major}{minor}), so torch's kernels are used there; reinstall fastgan with "
        f"TORCH_CUDA_ARCH_LIST='{major}.{minor}'."
    )


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


# ---- facts and counters ---------------------------------------------------------------------------------------------


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


@contextmanager
def timed_kernels() -> Iterator[None]:
    """Has the kernels that run meanwhile timed, for :func:`kernel_seconds`; on a GPU that is the time of the launch."""
    load()
    if _module:
        _module.time_kernels(True)
    try:
        yield
    finally:
        if _module:
            _module.time_kernels(False)


def kernel_seconds() -> dict[str, float]:
    """{"op/kernel": seconds since the last reset}, of the runs inside :func:`timed_kernels`."""
    load()
    return _module.kernel_seconds() if _module else {}


def take_trace(device: str) -> Trace:
    """What this thread ran on ``device`` since its last run began, of each of its blocks in order."""
    return _module.take_trace(device) if _module else ()


def engine_rules() -> list[tuple[str, str]]:
    """[(engine, convolutions)]: which engine runs which convolutions on a CPU; the first that fits decides."""
    load()
    return _module.engine_rules() if _module else []


def gemm_peak(dtype: str, milliseconds: float = 200.0) -> float:
    """GFLOP/s that the convolutions' micro-kernel reaches on operands in the second-level cache, on torch's threads.

    Args:
        dtype: "float32" or "bfloat16", of a convolution; where the CPU cannot multiply bfloat16, that is float32's.
        milliseconds: to measure for; the best sweep among them, of some milliseconds each, is what counts.

    Raises:
        RuntimeError: where ``_C`` or the operators for CPUs are not loaded.
    """
    load()
    if not _module:
        raise RuntimeError(f"Peaks are measured by fastgan._C, which is not loaded: {_state['_C']}.")
    return _module.gemm_peak(dtype == "bfloat16", milliseconds)


def keep_heap() -> bool:
    """Have the process keep freed memory, so that a step does not fault its pages in again; whether that is so now.

    It is the trainer's and the command line's to do; a program of its own does it with ``FASTGAN_KEEP_HEAP=1``.
    """
    global _keeps_heap
    load()
    _keeps_heap = _keeps_heap or bool(_module and _module.keep_heap())
    return _keeps_heap


@functools.cache
def cpu_isa() -> str:
    """The instruction set that the kernels for CPUs run on."""
    load()
    return _module.cpu_isa() if _module else "unknown"


def info() -> dict[str, Any]:
    """What :func:`fastgan.info` says, but for the version."""
    import torch

    load()
    return {
        "torch": torch.__version__,
        "build": build_info() or f"unknown, because _C is not loaded: {_state['_C']}",
        "cpu_isa": cpu_isa(),
        "keeps_heap": _keeps_heap,
        "ops": {device: _registered(device) for device in ("cpu", "cuda")},
        "libraries": {"_C": _state["_C"], "_cpu": _state["cpu"], "_cuda": _state["cuda"]},
    }


# ---- loading ---------------------------------------------------------------------------------------------------------


def _import_module() -> tuple[ModuleType | None, str]:
    """fastgan._C, or None, and LOADED or why not."""
    try:
        # Of this folder: an editable install's own finder would answer for another copy of the package.
        if importlib.machinery.PathFinder.find_spec("fastgan._C", [str(FOLDER)]) is None:
            raise ModuleNotFoundError("it was not built", name="fastgan._C")
        module = importlib.import_module("fastgan._C")
    except ImportError as error:
        built = _built_modules()
        wanted = ".".join(map(str, sys.version_info[:2]))
        if built and not any(f"cpython-{wanted.replace('.', '')}-" in name for name in built):
            return None, f"this is Python {wanted}, and it was built as {', '.join(built)}"
        if not built and _path("cpu").is_file():
            return None, "it was not built; install Python's headers (`apt install python3-dev`) and fastgan again"
        return None, str(error)
    try:
        module.cpu_isa()
    except ValueError as error:
        raise UserError(str(error)) from None
    return module, LOADED


def _load_library(device: str) -> str:
    """LOADED, or why not."""
    import torch

    path = _path(device)
    if not path.is_file():
        return _no_library() if device == "cpu" else _no_cuda()
    if device == "cuda" and not _torch_has_cuda():
        return f"torch {torch.__version__} is built without CUDA"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        return f"torch is {torch.__version__}, and 2.11 or newer is needed"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    if _module:
        _module.attach(device, str(path))
    return LOADED


def _path(device: str) -> Path:
    return FOLDER / f"_{device}.so"


def _built_modules() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("_C.*.so"))


def _torch_has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None


def _no_cuda() -> str:
    why_not = _module.build_info()["cuda"] if _module else None
    return why_not if isinstance(why_not, str) else f"{_path('cuda')} is missing"


def _no_library() -> str:
    root = FOLDER.parent
    if (root / "setup.py").is_file() and (root / "csrc").is_dir():
        return (
            f"fastgan is imported from the source tree {root}, which has no compiled libraries, so torch's kernels are "
            "used; run `pip install -e .` there, or leave the folder so that Python finds the installed package"
        )
    return (
        f"fastgan in {FOLDER} has no compiled libraries, so torch's kernels are used; "
        "reinstall it with `pip install --force-reinstall --no-deps fastgan`"
    )


def _registered(device: str) -> list[str]:
    import torch

    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::")}
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return sorted(name.removeprefix("fastgan::").lstrip("_") for name in names if has_kernel(name, device.upper()))


def _complain(sentence: str) -> None:
    if strict():
        raise RuntimeError(sentence)
    warn_once(sentence, sentence)
