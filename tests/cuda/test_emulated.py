"""CUDA kernels on the emulator (emulator.h), under AddressSanitizer and UndefinedBehaviorSanitizer, against float64."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fastgan_build import toolchain

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Comparing threadIdx.x with an int is the custom in kernels; the pragmas are nvcc's.
WARNINGS = ["-Wall", "-Werror", "-Wno-sign-compare", "-Wno-unknown-pragmas", "-Wno-unused-function"]
# Without optimisation: what the programs would gain by it is less than it takes to compile them with it.
FLAGS = [
    "-std=c++17",
    "-O0",
    "-fno-strict-aliasing",
    *WARNINGS,
    *SANITIZERS,
    "-Icsrc",
    f"-I{FOLDER}",
    "-include",
    "emulator.h",
]


def compile(source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [*toolchain.find_compiler().command, *flags, str(source), "-o", str(output)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Builds one of the programs of this folder."""
    folder = tmp_path_factory.mktemp("emulated")
    (folder / "empty.cpp").write_text("int main() {}\n")
    if compile(folder / "empty.cpp", folder / "empty", *SANITIZERS).returncode:
        pytest.skip("the compiler has no sanitizers here")

    def build(name: str) -> Path:
        output = folder / name
        if not output.exists():
            done = compile(FOLDER / f"{name}.cpp", output, *FLAGS)
            assert done.returncode == 0, done.stderr
        return output

    return build


def test_every_kernel_waits_for_the_one_before_it():
    """Or it might read what is not written yet, where launches overlap."""
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cu", ".cuh")]
    kernels = [kernel for path in sources for kernel in path.read_text().split("__global__")[1:]]
    bodies = [kernel.split("{", 1)[1].lstrip() for kernel in kernels]
    assert len(bodies) > 10 and all(body.startswith("follow();") for body in bodies)


@pytest.mark.parametrize("name", ["emulator", "batch_norm_act", "bce", "conv_index", "conv"])
def test_kernels_against_float64(program, name):
    done = subprocess.run([program(name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("hang", "the block hangs: its threads wait at different barriers"),
        ("lines", "threads meet at barriers of different lines"),
        ("shared", "index 64 out of bounds"),
        ("dynamic", "heap-buffer-overflow"),
        ("global", "stack-buffer-overflow"),
    ],
)
def test_the_emulator_notices(program, what, said):
    done = subprocess.run([program("emulator"), what], capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr
