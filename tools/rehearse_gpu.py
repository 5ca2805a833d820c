"""Runs the tests for a GPU, or any program, where there is none: on a simulated device, by a torch built for CUDA.

    python tools/rehearse_gpu.py                                    the tests marked ``cuda``, in about ten minutes
    python tools/rehearse_gpu.py -m fastgan train --device cuda     anything else that an interpreter runs

A CUDA runtime of ours stands in front of torch's (tests/cuda/simulated/). torch's allocator, streams, events and graphs
are its own and meet the rules of a device; torch's operators are computed by its kernels for CPUs, ours by the CUDA
sources on the emulator. So it shows what the host does wrong and what a capture refuses; not speed, not races, nothing
of cuDNN or of compiled kernels. SIMULATED_DEVICES=2 makes two devices, SIMULATED_SEED=1 has them draw other numbers,
SIMULATED_TRACE=1 tells every error and what is captured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("build/rehearsal")
SIMULATED = Path("tests/cuda/simulated")
FOLDERS = ("", "tests", "benchmarks", "build_backend", "tools")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

import gpu_check  # noqa: E402
from fastgan_build import errors, find_torch, native, ninja, toolchain  # noqa: E402

# Tensors of 4 GB would take an hour there.
TESTS = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "-k", "not beyond"]
# The first one stands for the driver too.
RUNTIME, OPERATORS, KERNELS = "libcuda.so.1", "operators.so", "_cuda.so"


def main(arguments: Sequence[str]) -> int:
    try:
        torch = find_torch.torch_to_build_with()
        ninja.run(list(edges(torch)), FOLDER, ROOT)
    except errors.BuildError as error:
        sys.exit(f"rehearse_gpu: {error}")
    except ninja.CommandFailed as failed:
        sys.exit(f"{failed.output}\nrehearse_gpu: {failed.action} failed with the message above.")
    if not (ROOT / "fastgan" / "_cpu.so").is_file() or not gpu_check.counts_kernels():
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "FASTGAN_CUDA": "0"}, check=True)
    # Python runs the folder's sitecustomize.py as it starts, and so does every Python that is started by it.
    folders = [SIMULATED, *FOLDERS]
    path = [*(str(ROOT / folder) for folder in folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": "1", "SIMULATED_DEVICES": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)}
    environment |= {"LD_PRELOAD": str(ROOT / FOLDER / RUNTIME), "FASTGAN_SIMULATED": str(ROOT / FOLDER)}
    if not arguments:
        arguments = [*TESTS, *(str(ROOT / file) for file in gpu_check.marked_files())]
        environment |= {"FASTGAN_ENGINE": "native", "SIMULATED_DEVICES": "2"}
    return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode


def edges(torch: find_torch.Torch) -> Iterator[ninja.Edge]:
    """The simulated runtime, torch's operators on it, and our CUDA library on both. Raises BuildError."""
    if torch.cuda is None:
        raise errors.BuildError(
            f"torch {torch.version} is built without CUDA; run this by an interpreter whose torch has it, as "
            "`pip install torch` installs it."
        )
    nvcc = toolchain.find_nvcc()
    if nvcc is None:
        raise errors.BuildError(
            "there is no nvcc, which knows where CUDA's headers are; set CUDA_HOME to a CUDA toolkit."
        )
    cxx, cuda = toolchain.find_compiler().command, [str(nvcc), "-Xcompiler", "-fPIC"]  # nvcc: as a C++ compiler
    torchs = [torch.include, torch.include / "torch/csrc/api/include", toolchain.python_include()]
    torchs += sorted(torch.root.parent.glob("nvidia/*/include"))  # the CUDA libraries that torch came with
    sources = native.find_sources(ROOT)
    runtime, operators = [SIMULATED / "devices.cpp", SIMULATED / "streams.cpp"], [SIMULATED / "operators.cpp"]
    kernels = [*sources.cuda, *sources.cuda_host, *sources.common]
    emulated = [*toolchain.cxx_flags(), "-fno-strict-aliasing", "-include", f"{SIMULATED}/library.h"]
    names = ("torch_cpu", "torch_cuda", "torch_python", "c10", "c10_cuda")
    libraries = [f"-L{torch.lib}", *(f"-l{name}" for name in names)]
    yield from library(RUNTIME, runtime, [*cuda, "-std=c++17"], [], [f"-Wl,-soname,{RUNTIME}"])
    yield from library(OPERATORS, operators, [*cuda, "-std=c++20"], torchs, libraries)
    yield from library(KERNELS, kernels, [*cxx, *emulated], [torch.include], libraries)


def library(
    name: str, files: Sequence[Path], compiler: Sequence[str], headers: Sequence[Path], linked: Sequence[str]
) -> Iterator[ninja.Edge]:
    include = ["-Icsrc", "-Itests/cuda", *(word for folder in headers for word in ("-isystem", str(folder)))]
    objects = []
    for file in files:
        objects.append(FOLDER / "objects" / name / file.with_suffix(f"{file.suffix}.o"))
        dependencies = ["-MD", "-MF", f"{objects[-1]}.d"]
        command = [
            *compiler,
            "-x",
            "c++",
            "-O1",
            "-w",
            *include,
            *dependencies,
            "-c",
            str(file),
            "-o",
            str(objects[-1]),
        ]
        yield ninja.Edge(objects[-1], [file], command, "compile")
    command = [*toolchain.find_compiler().command, "-shared", *map(str, objects), *linked, "-o", str(FOLDER / name)]
    yield ninja.Edge(FOLDER / name, objects, command, "link")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
