"""tools/gpu_check.py, as far as it goes without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
import torch

REPORT = """\
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="3" tests="10">
<testcase name="test_a[float32]"><failure message="assert 2 &lt;= 1&#10; +  where">long</failure></testcase>
<testcase name="test_b"><error message="failed on setup" /></testcase><testcase name="test_c" />
</testsuite></testsuites>"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence():
    done = subprocess.run([sys.executable, gpu_check.__file__], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"gpu-check: torch {torch.__version__} sees no GPU; run this on a machine with one, by a torch for CUDA.\n"
    )


def test_libraries_built_beforehand_are_used_as_they_are(monkeypatch, tmp_path):
    libraries = [tmp_path / "_cuda.so", tmp_path / "_cpu.so"]
    for library in libraries:
        library.write_bytes(b"as it is")
    commands, builds = [], []

    class Noted(subprocess.CompletedProcess):
        pid = 0

        def communicate(self, timeout):
            return self.stdout, None

    def note(command, **options):
        commands.append(command)
        builds.extend([(command, options["env"])] if "setup.py" in command else [])
        return Noted(command, 0, stdout="{}")

    monkeypatch.setattr(gpu_check, "LIBRARIES", libraries)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "missing", lambda: "")
    monkeypatch.setattr(gpu_check, "machine", lambda: {"gpu": "NVIDIA H200", "counts_kernels": True})
    monkeypatch.setattr(gpu_check, "counts_kernels", lambda: True)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    for name in ("run", "Popen"):
        monkeypatch.setattr(gpu_check.subprocess, name, note)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert gpu_check.main() == 0
    assert len(commands) == 12 and not builds  # seven groups of tests, five benchmarks
    record = json.loads((tmp_path / "benchmarks" / "results" / "nvidia-h200.json").read_text())
    assert list(record) == ["machine", "tests", "benchmarks", "sanitizer"]
    monkeypatch.setattr(gpu_check, "counts_kernels", lambda: False)
    gpu_check.main()
    libraries[1].unlink()
    gpu_check.main()
    (module, _), (whole, environment) = builds
    assert module == [*whole, "--module-only"]
    assert (environment["FASTGAN_CUDA"], environment["TORCH_CUDA_ARCH_LIST"]) == ("1", "9.0")


def test_what_is_known_is_written_after_every_stage(monkeypatch, tmp_path):
    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "LIBRARIES", [])
    monkeypatch.setattr(gpu_check, "counts_kernels", lambda: True)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "missing", lambda: "")
    monkeypatch.setattr(gpu_check, "machine", lambda: {"gpu": "NVIDIA H200"})
    monkeypatch.setattr(gpu_check, "STAGES", {"tests": lambda: {"passed": 1}, "benchmarks": fail})
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main()
    record = json.loads((tmp_path / "benchmarks" / "results" / "nvidia-h200.json").read_text())
    assert record["tests"] == {"passed": 1}


def test_every_marked_file_is_collected():
    assert {"tests/cuda/test_device.py", "tests/data/test_image_set.py"} <= set(gpu_check.marked_files())


def test_counts_are_read_from_the_report():
    why = {"test_a[float32]": "assert 2 <= 1", "test_b": "failed on setup"}
    assert gpu_check.read_counts(REPORT) == {"passed": 5, "failed": 2, "skipped": 3, "why": why}


def test_what_failed_or_was_skipped_counts():
    passed = {"exit_code": 0, "seconds": 1.0}
    record = {
        "machine": {"counts_kernels": True},
        "tests": {**passed, "skipped": 0},
        "sanitizer": {"skipped": "no"},
        "benchmarks": {"auto": passed},
    }
    assert gpu_check.failures(record) == []
    record["tests"]["skipped"] = 1
    record["sanitizer"] = {"memcheck": {**passed, "exit_code": 9}}
    record["benchmarks"]["auto"] = {**passed, "exit_code": 124}
    record["machine"] = {"counts_kernels": False}
    assert gpu_check.failures(record) == ["counts_kernels", "tests", "auto", "memcheck"]


@pytest.fixture
def begun(monkeypatch):
    """All together have so many seconds from the module's import on, which may be long ago here."""
    monkeypatch.setattr(gpu_check, "BEGUN", time.monotonic())


def test_a_stage_that_takes_too_long_is_stopped_with_all_that_it_started(monkeypatch, tmp_path, begun):
    started = tmp_path / "pid"
    program = f"import subprocess; subprocess.run('echo $$ > {started}; exec sleep 60', shell=True)"
    monkeypatch.setattr(gpu_check, "LIMIT", 2)
    done = gpu_check.run(["-c", program], gpu_check.AUTO, echo=False)
    assert done["exit_code"] == 124 and "stopped after" in done["output"]
    state = Path("/proc", started.read_text().strip(), "stat")
    for _ in range(50):  # ended, or waiting for whoever takes note of it
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("what it started is still there")


def test_the_engine_reaches_the_programs_that_are_run(begun):
    done = gpu_check.run(["-c", "import os; print(os.environ['FASTGAN_ENGINE'])"], gpu_check.NATIVE, echo=False)
    assert (done["exit_code"], done["output"]) == (0, "native\n")
