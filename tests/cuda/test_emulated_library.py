"""The whole CUDA library on the emulator, its host code too: it takes the CPU's place under the operators' tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastgan_build import find_torch, native, toolchain

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)
FLAGS = ["-O0", "-fno-strict-aliasing", "-Wno-sign-compare", "-Wno-unknown-pragmas", "-Wno-unused-function"]
# What is said of the CPU's kernels only: their sigmoid of -90 is 0 as torch's is, the mean of an infinity is one, and
# they can raise an error for what a tensor holds.
CPU_ONLY = "special_values or infinity_and_nan or bad_input or wrong_arguments or thread_count"
# Two blocks: the first one's normalise + activate belong into the second's kernels.
SCRIPT = """
import emulated_device, torch
from fastgan import _native, layers as nn
first = nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
net = nn.Sequential(*first, nn.Conv2d(4, 9, 3, bias=False), nn.BatchNorm2d(9), nn.Tanh())
net(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
print(*(f"{kernel}={calls}" for kernel, calls in _native.counters().items()))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    sources, torch = native.find_sources(ROOT), find_torch.torch_to_build_with()
    schemas = [path for path in sources.cpu if path.name == "schema.cpp"]
    files = [*sources.cuda, *sources.cuda_host, *schemas, *sources.common]
    output = tmp_path_factory.mktemp("emulated") / "_emulated.so"
    include = ["-Icsrc", f"-I{FOLDER}", "-isystem", str(torch.include), "-include", "emulated_library.h"]
    command = [*toolchain.find_compiler().command, "-x", "c++", *toolchain.cxx_flags(), *FLAGS, *include]
    command += [*map(str, files), "-shared", "-o", str(output), f"-L{torch.lib}", "-ltorch_cpu", "-Wl,-z,defs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def run(library: Path, *arguments: str, on_load: str = "") -> str:
    """What this interpreter prints with the library in the place of the CPU's."""
    variables = {"FASTGAN_EMULATED_LIBRARY": str(library), "FASTGAN_ENGINE": "native", "FASTGAN_ON_LOAD": on_load}
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / FOLDER)])}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def run_tests(library: Path, names: str, selection: str, on_load: str = "") -> None:
    files = [f"tests/{name}.py" for name in names.split()]
    command = ["-m", "pytest", "-q", "-p", "emulated_device", "-p", "no:cacheprovider"]
    said = run(library, *command, *files, "-k", selection, on_load=on_load)
    assert "passed" in said and "skipped" not in said


@pytest.mark.parametrize("on_load", ["", "always"])
def test_the_kernels_that_run_are_those_of_cuda(library, on_load):
    said = run(library, "-c", SCRIPT, on_load=on_load)
    kernels = dict(kernel.split("=") for kernel in said.split())
    passes = ("forward", "backward_dgrad", "backward_wgrad")
    assert {kernels[f"conv_bn_act/{name}_float32_cuda"] for name in passes} == {"2"}
    assert not [kernel for kernel in kernels if not kernel.endswith("_cuda")]
    # On load only the last activation is written; otherwise the first one too, again for its weight's gradient.
    assert kernels["batch_norm_act/forward_contiguous_float32_cuda"] == ("1" if on_load else "3")
    # No pass reads an output for its statistics.
    assert kernels["batch_norm_act/statistics_of_moments_contiguous_float32_cuda"] == "2"
    assert not [kernel for kernel in kernels if kernel.startswith("batch_norm_act/statistics_contiguous")]


def test_operators_equal_the_truth(library):
    selection = "(equals_truth and float32 and not (wide or rows or none or relu)) or opcheck"
    run_tests(library, "ops/test_exactness ops/test_gradients", selection)


def test_runs_of_blocks_equal_torch(library):
    selection = "(over_steps and nhwc and not generator) or (generator and autocast)"
    run_tests(library, "layers/test_sequential", selection)
    selection += " or (two_launches and ours and native)"
    run_tests(library, "layers/test_sequential training/test_step_split", selection, on_load="always")


def test_what_runs_on_a_gpu_first_has_run_here(library):
    fused = "(fused and float32 and not 1)"
    run_tests(
        library, "cuda/test_device", f"{fused} or (awkward and bfloat16) or (rounded and 72) or compiled or turned"
    )
    run_tests(library, "cuda/test_device", fused, on_load="always")


@pytest.mark.long
def test_every_test_of_the_operators(library):
    run_tests(library, "ops/test_exactness ops/test_gradients ops/test_bce ops/test_properties", f"not ({CPU_ONLY})")
    for on_load in ("", "always"):
        networks = "layers/test_sequential training/test_step_split"
        run_tests(library, networks, "equals_torch or derivatives or two_launches", on_load)
    # No graphs and streams, nor what takes a GPU's time or memory.
    run_tests(library, "cuda/test_device", "not (capture or streams or beyond or no_bit or to512 or 512to)")
    run_tests(library, "cuda/test_device", "fused", on_load="always")
