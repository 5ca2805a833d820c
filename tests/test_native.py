import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import _native, ops
from fastgan.errors import FastganWarning

_C = pytest.importorskip("fastgan._C", reason="built without Python.h")

ISAS = ["scalar", "avx2", "avx512", "amx"]  # each includes those before it


@pytest.fixture
def counters():
    _native.reset_counters()
    yield _native.counters
    _native.reset_counters()


def bce(n: int = 4) -> None:
    ops.bce(torch.full((n,), 0.5), torch.ones(n))


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_info():
    info = fastgan.info()
    assert list(info) == ["version", "torch", "build", "cpu_isa", "keeps_heap", "ops", "libraries"]
    assert (info["version"], info["torch"]) == (fastgan.__version__, torch.__version__)
    assert info["cpu_isa"] in ISAS
    assert info["libraries"]["_cpu"] == info["libraries"]["_C"] == "loaded"
    assert {"run", "run_backward", "bce", "adversarial_bce"} <= set(info["ops"]["cpu"])
    assert (info["libraries"]["_cuda"] == "loaded") == bool(info["ops"]["cuda"])


@pytest.mark.parametrize("wish", ["0", "1"])
def test_keep_heap_ends_page_faults(wish):
    code = """
import resource, torch, fastgan.layers
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(fastgan.info()["keeps_heap"], min(faults() for _ in range(4)) < 1000)  # a heap may take some rounds to settle
"""
    environment = {**os.environ, "FASTGAN_KEEP_HEAP": wish, "PYTHONPATH": str(_native.FOLDER.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["True", "True"] if wish == "1" else ["False", "False"])


def test_build_facts():
    build = fastgan.info()["build"]
    assert set(build) == {"version", "compiler", "flags", "torch", "isas", "cuda", "nvcc"}
    assert build["version"] == fastgan.__version__
    assert "-std=c++17" in build["flags"]
    assert build["isas"][0] == "scalar"
    if build["nvcc"]:
        assert all(arch.startswith(("sm_", "compute_")) for arch in build["cuda"])
    else:
        assert isinstance(build["cuda"], str) and build["cuda"]  # why there is none


def test_the_cuda_library_says_why_it_is_not_loaded():
    if torch.version.cuda:
        pytest.skip("this torch has CUDA")
    assert not _native.loaded("cuda")
    built = _native.FOLDER / "_cuda.so"
    assert _native.reason("cuda") == (
        f"torch {torch.__version__} is built without CUDA" if built.exists() else fastgan.info()["build"]["cuda"]
    )


def test_the_cuda_library_refuses_cleanly_without_cuda():
    library = _native.FOLDER / "_cuda.so"
    if torch.version.cuda or not library.exists():
        pytest.skip("for a torch without CUDA, and a build with it")
    with pytest.raises(OSError, match=r"libtorch_cuda\.so: cannot open shared object file"):
        ctypes.CDLL(str(library))


# ---- counters -------------------------------------------------------------------------------------------------------


def test_counters_count(counters):
    assert counters() == {}
    for calls in (1, 2, 3):
        bce()
        assert counters() == {"bce/forward_float32": calls}
    assert _native.last_kernels() == {"bce": "forward_float32"}


def test_the_last_kernel_of_each_op_is_known(counters):
    bce()
    ops.bce(torch.full((4,), 0.5).double(), torch.ones(4).double())
    assert _native.last_kernels()["bce"] == "forward_float64"
    bce()
    assert _native.last_kernels()["bce"] == "forward_float32"
    assert sum(counters().values()) == 3


def test_reset(counters):
    bce()
    _native.reset_counters()
    assert counters() == _native.last_kernels() == {}
    bce()
    assert counters() == {"bce/forward_float32": 1}


def test_counters_are_exact_under_threads(counters):
    threads = [threading.Thread(target=lambda: [bce() for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters() == {"bce/forward_float32": 400}


def test_kernels_are_timed_only_where_that_is_asked_for(counters):
    bce(1 << 16)
    assert _native.kernel_seconds() == {}
    with _native.timed_kernels():
        bce(1 << 16)
    first = _native.kernel_seconds()
    assert set(first) == {"bce/forward_float32"} and first["bce/forward_float32"] > 0
    bce(1 << 16)
    assert _native.kernel_seconds() == first
    _native.reset_counters()
    assert _native.kernel_seconds() == {}


def test_a_trace_is_what_this_thread_ran_since_its_last_run_began():
    def norm(channels: int, dtype: torch.dtype) -> None:
        ops.batch_norm_act(torch.randn(2, channels, 4, dtype=dtype), None, None, training=True)

    norm(3, torch.float32)
    norm(3, torch.float64)
    elsewhere = threading.Thread(target=bce)
    elsewhere.start()
    elsewhere.join()
    bce()
    run, rest = _native.take_trace("cpu")
    assert all(kernel.startswith("batch_norm_act/") and "float64" in kernel for kernel in run) and len(run) == 2
    assert rest == ("bce/forward_float32",)
    assert _native.take_trace("cpu") == _native.take_trace("cuda") == ()


# ---- the convolution engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_doctor_says_which_engine_runs_which_convolutions(engine):
    env = {**os.environ, "PYTHONPATH": str(_native.FOLDER.parent), "FASTGAN_ENGINE": engine}
    command = [sys.executable, "-m", "fastgan", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    rules = [line.split(None, 1)[1] for line in done.stdout.splitlines() if line.startswith("convolutions")]
    assert rules and all(rule.startswith("on a CPU, ") for rule in rules)
    assert any("FASTGAN_ENGINE=native" in rule for rule in rules) == (engine == "native")


def test_the_peak_is_a_rate():
    for dtype in ("float32", "bfloat16"):
        assert 0.1 < _native.gemm_peak(dtype, 1) < 1e6


def test_only_a_loaded_library_of_ours_can_be_attached(tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere\.so is not loaded"):
        _C.attach("cpu", str(tmp_path / "nowhere.so"))
    with pytest.raises(RuntimeError, match="has no kernel counters"):
        _C.attach("cpu", _C.__file__)


# ---- the CPU --------------------------------------------------------------------------------------------------------


def flags_of_the_machine() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def test_cpu_features_are_those_that_linux_shows():
    flags = flags_of_the_machine()
    if not flags:
        pytest.skip("not an x86 Linux")
    found = _C.cpu_features()
    assert set(found) == {"avx2", "fma", "f16c", "avx512", "avx512_bf16", "avx512_fp16", "amx_bf16"}
    for name in ("avx2", "fma", "f16c"):
        assert found[name] == (name in flags)
    assert found["avx512"] == ({"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags)
    for name in ("avx512_bf16", "avx512_fp16"):
        assert found[name] == (found["avx512"] and name in flags)
    assert not found["amx_bf16"] or {"amx_tile", "amx_bf16"} <= flags  # Linux may withhold the tiles from a process


@pytest.mark.parametrize("cap", ISAS)
def test_the_instruction_set_can_be_capped(cap):
    code = "from fastgan import _C; print(_C.cpu_isa())"
    env = {**os.environ, "PYTHONPATH": str(_native.FOLDER.parent), "FASTGAN_CPU_ISA": cap}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    env["FASTGAN_CPU_ISA"] = ""
    best = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == min(cap, best.stdout.strip(), key=ISAS.index)


# ---- GPUs -----------------------------------------------------------------------------------------------------------

DEFAULT = ["sm_75", "sm_80", "sm_90a", "compute_90"]


@pytest.mark.parametrize(
    "archs, capability, covered",
    [
        (DEFAULT, (7, 0), False),
        (DEFAULT, (7, 5), True),
        (DEFAULT, (8, 0), True),
        (DEFAULT, (8, 9), True),
        (DEFAULT, (9, 0), True),
        (DEFAULT, (10, 0), True),  # by PTX
        (DEFAULT, (12, 1), True),
        (["sm_80"], (7, 5), False),
        (["sm_80"], (9, 0), False),
        (["sm_86"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (10, 0), False),
        (["compute_90a"], (10, 0), False),
        (["sm_100f"], (10, 3), True),
        (["sm_100f"], (12, 0), False),
        (["compute_80"], (12, 0), True),
        ([], (9, 0), False),
    ],
)
def test_which_gpus_a_build_covers(archs, capability, covered):
    assert _native.covers(archs, capability) is covered


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a given compute capability, and a loaded library built for sm_80 only."""

    def make(capability):
        monkeypatch.setattr(_native, "_state", {"_C": "loaded", "cpu": "loaded", "cuda": "loaded"})
        monkeypatch.setattr(_native, "_covered", {})
        monkeypatch.setattr(_native, "build_info", lambda: {"cuda": ["sm_80"]})
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A GPU")

    return make


def test_a_gpu_that_is_covered(gpu):
    gpu((8, 6))
    assert _native.cuda_covered(0)


def test_a_gpu_that_is_not_covered_is_named_once(gpu, monkeypatch, recwarn):
    gpu((6, 1))
    assert not _native.cuda_covered(0)
    assert not _native.cuda_covered(0)
    (warning,) = [w for w in recwarn if w.category is FastganWarning]
    for part in ("built for sm_80", "A GPU (sm_61)", "TORCH_CUDA_ARCH_LIST='6.1'"):
        assert part in str(warning.message)


def test_a_gpu_that_is_not_covered_is_an_error_under_strict(gpu, monkeypatch):
    gpu((6, 2))
    monkeypatch.setenv("FASTGAN_STRICT", "1")
    with pytest.raises(RuntimeError, match=r"does not cover A GPU \(sm_62\)"):
        _native.cuda_covered(0)
