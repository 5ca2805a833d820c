"""tools/gpu_check.py, as far as it goes without a GPU."""

from __future__ import annotations

import subprocess
import sys

import gpu_check
import pytest
import torch

REPORT = '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"></testsuite></testsuites>'


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence():
    done = subprocess.run([sys.executable, gpu_check.__file__], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"gpu-check: torch {torch.__version__} sees no GPU; run this on a machine with one, by a torch for CUDA.\n"
    )


def test_a_library_built_beforehand_is_used_as_it_is(monkeypatch, tmp_path):
    library = tmp_path / "_cuda.so"
    library.write_bytes(b"as it is")
    commands = []

    def note(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(gpu_check, "LIBRARY", library)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "missing", lambda: "")
    monkeypatch.setattr(gpu_check, "machine", lambda: {"gpu": "NVIDIA H200"})
    monkeypatch.setattr(gpu_check, "run_benchmarks", lambda engine: {"exit_code": 0, "seconds": 1.0})
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_check.subprocess, "run", note)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert gpu_check.main() == 0
    assert not [command for command in commands if "setup.py" in command]
    assert (tmp_path / "benchmarks" / "results" / "nvidia-h200.json").is_file()
    library.unlink()
    gpu_check.main()
    assert [command for command in commands if "setup.py" in command]


def test_every_marked_file_is_collected():
    assert {"tests/cuda/test_device.py", "tests/data/test_image_set.py"} <= set(gpu_check.marked_files())


def test_counts_are_read_from_the_report():
    assert gpu_check.read_counts(REPORT) == {"passed": 4, "failed": 3, "skipped": 3}


def test_what_failed_or_was_skipped_counts():
    passed = {"exit_code": 0, "seconds": 1.0}
    record = {"tests": {**passed, "skipped": 0}, "sanitizer": {"skipped": "no"}, "benchmarks": {"auto": passed}}
    assert gpu_check.failures(record) == []
    record["tests"]["skipped"] = 1
    record["sanitizer"] = {"memcheck": {**passed, "exit_code": 9}}
    record["benchmarks"]["auto"] = {**passed, "exit_code": 124}
    assert gpu_check.failures(record) == ["tests", "auto", "memcheck"]


def test_a_stage_that_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(gpu_check, "LIMIT", 0.2)
    done = gpu_check.run(["-c", "import time; time.sleep(60)"], "auto", echo=False)
    assert done["exit_code"] == 124 and "stopped after" in done["output"]


def test_the_engine_reaches_the_programs_that_are_run():
    done = gpu_check.run(["-c", "import os; print(os.environ['FASTGAN_ENGINE'])"], "native", echo=False)
    assert (done["exit_code"], done["output"]) == (0, "native\n")
