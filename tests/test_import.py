"""What `import fastgan` does where the native libraries are missing or broken: each case in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan

PACKAGE = Path(fastgan.__file__).parent


def run(folder: Path, code: str, **env: str) -> subprocess.CompletedProcess:
    """Run Python in `folder`, with the package that lies there and every warning shown."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTGAN_")}
    env = {**clean, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "always", "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def installed(tmp_path):
    """A copy of the package without its libraries, as if in site-packages."""
    shutil.copytree(PACKAGE, tmp_path / "fastgan", ignore=shutil.ignore_patterns("*.so", "__pycache__", "assets"))
    return tmp_path


@pytest.fixture
def clone(installed):
    """The same in a source tree."""
    (installed / "setup.py").touch()
    (installed / "csrc").mkdir()
    return installed


def add_library(folder: Path, pattern: str) -> None:
    for path in PACKAGE.glob(pattern):
        (folder / "fastgan" / path.name).symlink_to(path)


WITHOUT_TORCH = "import sys, fastgan; assert 'torch' not in sys.modules; print(fastgan.__version__)"
USE = """
import torch
from fastgan import _native, layers, ops
chain = layers.Sequential(layers.Conv2d(3, 4, 3), layers.BatchNorm2d(4), layers.ReLU())
chain(torch.randn(2, 3, 8, 8)).sum().backward()
loss = ops.bce(torch.tensor([0.5, 0.5]), torch.ones(2))
print(f"{loss.item():.4f}", len(_native.counters()), _native.loaded("cpu"))
"""


def test_a_source_tree_without_libraries_is_named_with_the_remedy(clone):
    done = run(clone, WITHOUT_TORCH)
    assert (done.returncode, done.stdout.strip()) == (0, fastgan.__version__)
    assert done.stderr.count("FastganWarning") == 1
    for part in (f"from the source tree {clone}", "pip install -e .", "leave the folder"):
        assert part in done.stderr


def test_an_installation_without_libraries_is_named_with_the_remedy(installed):
    done = run(installed, WITHOUT_TORCH)
    assert done.returncode == 0
    assert done.stderr.count("FastganWarning") == 1
    assert f"fastgan in {installed}/fastgan has no compiled libraries" in done.stderr
    assert "pip install --force-reinstall" in done.stderr


def test_torchs_kernels_do_the_work_and_info_says_why(clone):
    done = run(clone, f"{USE}import fastgan; print(fastgan.info()['libraries']['_cpu'])")
    assert done.returncode == 0, done.stderr
    numbers, why_not = done.stdout.strip().split("\n")
    assert numbers == "0.6931 0 False"
    assert "which has no compiled libraries" in why_not
    assert done.stderr.count("FastganWarning") == 1


def test_strict_makes_it_an_error(clone):
    done = run(clone, WITHOUT_TORCH, FASTGAN_STRICT="1")
    assert done.returncode == 1
    assert f"RuntimeError: fastgan is imported from the source tree {clone}" in done.stderr


@pytest.mark.parametrize("strict", ["0", "1"])
def test_a_broken_library(installed, strict):
    (installed / "fastgan/_cpu.so").write_text("this is no library")
    done = run(installed, USE, FASTGAN_STRICT=strict)
    sentence = f"fastgan cannot load {installed}/fastgan/_cpu.so, so torch's kernels are used: "
    assert done.stderr.count(sentence) == 1
    if strict == "1":
        assert (done.returncode, done.stdout) == (1, "")
    else:
        assert (done.returncode, done.stdout.strip()) == (0, "0.6931 0 False")
        assert done.stderr.count("FastganWarning") == 1


def test_without_the_module_of_facts_and_counters_the_kernels_still_run(installed):
    add_library(installed, "_cpu.so")
    done = run(installed, f"{USE}import fastgan; print(fastgan.info()['build'])", FASTGAN_STRICT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.6931 0 True\nunknown, because _C is not loaded: it was not built")
    assert done.stderr.count("FastganWarning: fastgan cannot load fastgan._C, so kernel counters") == 1


def test_a_module_built_for_another_python_is_named(installed):
    add_library(installed, "_cpu.so")
    (installed / "fastgan/_C.cpython-399-x86_64-linux-gnu.so").touch()
    done = run(installed, "from fastgan import _native; print(_native.info()['libraries']['_C'])")
    assert done.returncode == 0, done.stderr
    assert "it was built as _C.cpython-399-x86_64-linux-gnu.so" in done.stdout


@pytest.mark.parametrize("name", ["neon", "AVX2"])
def test_an_unknown_instruction_set_is_named(installed, name):
    add_library(installed, "*.so")
    done = run(installed, "from fastgan import _native; _native.load()", FASTGAN_CPU_ISA=name)
    assert done.returncode == 1
    assert f"UserError: The environment variable FASTGAN_CPU_ISA is '{name}'; set it to amx, avx512" in done.stderr


@pytest.mark.parametrize("arguments", ["'--help'", "'train', '--help'"])
def test_help_needs_no_torch(tmp_path, arguments):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is imported')")
    code = f"import runpy, sys; sys.argv = ['fastgan', {arguments}]; runpy.run_module('fastgan', run_name='__main__')"
    done = run(tmp_path, code, PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout and "train" in done.stdout


def test_the_attributes_are_imported_when_they_are_used():
    assert set(fastgan.__all__) <= set(dir(fastgan))
    assert fastgan.ops.bce.__module__.startswith("fastgan.ops")
    with pytest.raises(AttributeError, match="module 'fastgan' has no attribute 'nothing'"):
        _ = fastgan.nothing
