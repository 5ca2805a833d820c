"""Proves the CUDA kernels on the GPU of this machine, and records it in ``benchmarks/results/<gpu>.json``.

    python tools/gpu_check.py

With the torch of the interpreter that runs it, and without a network: builds the libraries for this GPU where one is
missing (those that are there are used as they are), and what counts the kernels where this Python has none; runs every
test marked ``cuda``, then the benchmarks, then compute-sanitizer over some of the tests where it is installed, all in
less than nine minutes. The record is written after every stage. Exits with 2 where there is nothing to run on, with 1
where something failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = [ROOT / "fastgan" / name for name in ("_cuda.so", "_cpu.so")]
FOLDERS = ("", "tests", "benchmarks", "build_backend", "tools")
# The tests of DEVICE in processes of their own: after an illegal access every further test of its process fails.
DEVICE = "tests/cuda/test_device.py"
CAPTURED = "tests/training/test_step_capture.py"
GROUPS = {"operators": "equals_truth", "convolutions": "every_pass or fused"}
NATIVE, AUTO = {"FASTGAN_ENGINE": "native"}, {"FASTGAN_ENGINE": "auto"}
ON_LOAD = {**NATIVE, "FASTGAN_ON_LOAD": "always"}  # by kernels that the rule does not take for most shapes
OVERLAP = {**NATIVE, "FASTGAN_OVERLAP": "1"}  # each kernel launched before the one before it has ended
# Under compute-sanitizer a kernel takes many times as long: small cases of every kernel are enough.
SANITIZED = "awkward_memory or fused or (every_pass and (odd or stride_beyond))"
TOOLS = ("memcheck", "racecheck")
LIMIT, WHOLE = 150, 520  # seconds that one process may take, and all together
BEGUN = time.monotonic()


def main() -> int:
    why_not = missing()
    if why_not:
        print(f"gpu-check: {why_not}", file=sys.stderr)
        return 2
    if not all(library.is_file() for library in LIBRARIES):
        build()
    elif not counts_kernels():
        build("--module-only")
    record = {"machine": machine()}
    path = ROOT / "benchmarks" / "results" / f"{slug(record['machine']['gpu'])}.json"
    for name, stage in STAGES.items():
        record[name] = stage()
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path.relative_to(ROOT)}")
    return 1 if failures(record) else 0


def build(*options: str) -> None:
    """For this GPU alone, unless TORCH_CUDA_ARCH_LIST says otherwise."""
    import torch

    arch = "{}.{}".format(*torch.cuda.get_device_capability())
    environment = {"TORCH_CUDA_ARCH_LIST": arch, **os.environ, **({} if options else {"FASTGAN_CUDA": "1"})}
    command = [sys.executable, "setup.py", "build_ext", "--inplace", *options]
    subprocess.run(command, cwd=ROOT, env=environment, check=not options)


def counts_kernels() -> bool:
    """Whether there is fastgan._C for this Python; without it nothing tells which kernels ran."""
    return (ROOT / "fastgan" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").is_file()


def missing() -> str:
    """The sentence that says why nothing can be proven here; empty where it can."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch; run `make gpu-check PYTHON=...` with an interpreter that has one."
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU; run this on a machine with one, by a torch for CUDA."
    try:
        import pytest  # noqa: F401
    except ImportError:
        return f"{sys.executable} has no pytest, which runs the tests; install it there."
    return ""


def machine() -> dict[str, Any]:
    """What is proven, and on what."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "commit": git("rev-parse", "HEAD").strip() or None,
        "changed_files": len(git("status", "--porcelain").splitlines()),
        "counts_kernels": counts_kernels(),
        "library_sha256": hashlib.sha256(LIBRARIES[0].read_bytes()).hexdigest(),
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "python": sys.version.split()[0],
    }


def git(*arguments: str) -> str:
    """What git says of this repository; nothing where there is no git, or no repository."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


def marked_files() -> list[str]:
    """Only these are collected: the others may need packages that a machine with a GPU does not have."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "pytest.mark.cuda" in path.read_text()]


def run_tests() -> dict[str, Any]:
    """passed, failed and skipped, of all groups together, and each group by itself."""
    others = [name for name in marked_files() if name != DEVICE]
    groups = {name: run_group([DEVICE, "-k", selection]) for name, selection in GROUPS.items()}
    rest = " or ".join(f"({selection})" for selection in GROUPS.values())
    groups |= {"rest": run_group([DEVICE, "-k", f"not ({rest})"]), "others": run_group(others)}
    groups["on_load"] = run_group([DEVICE, "-k", "fused"], ON_LOAD)
    groups["by_rule"] = run_group([CAPTURED], AUTO)
    groups["overlap"] = run_group([DEVICE, "-k", "fused or no_bit or capture or streams"], OVERLAP)
    sums = {name: sum(group[name] for group in groups.values()) for name in ("passed", "failed", "skipped")}
    return {**sums, "exit_code": max(group["exit_code"] for group in groups.values()), "groups": groups}


def run_group(arguments: Sequence[str], variables: Mapping[str, str] = NATIVE) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = run(["-m", "pytest", "-q", "-m", "cuda", f"--junitxml={report}", *arguments], variables)
        counts = read_counts(report.read_text()) if report.is_file() else {"passed": 0, "failed": 0, "skipped": 0}
    return {**counts, **done}


def read_counts(report: str) -> dict[str, Any]:
    """passed, failed and skipped, of pytest's JUnit report, and what failed with the first line of why."""
    root = ET.fromstring(report)
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in root.iter("testsuite"))
        for name in ("tests", "failures", "errors", "skipped")
    )
    why = {
        case.get("name"): (found.get("message") or "").partition("\n")[0]
        for case in root.iter("testcase")
        for found in (*case.iter("failure"), *case.iter("error"))
    }
    return {"passed": total - failed - errors - skipped, "failed": failed + errors, "skipped": skipped, "why": why}


def sanitize() -> dict[str, Any]:
    """compute-sanitizer's memcheck and racecheck, or why there is none."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"skipped": "compute-sanitizer is not on PATH"}
    tests = ["-m", "pytest", "-q", "-x", "-m", "cuda", DEVICE, "-k", SANITIZED]
    return {
        tool: run(tests, NATIVE, [program, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"])
        for tool in TOOLS
    }


def run_benchmarks() -> dict[str, Any]:
    """By both engines, by ours as it might be, and by torch.compile, which may take minutes."""
    return {
        "native": run_benchmark(NATIVE),
        "auto": run_benchmark(AUTO),
        "on_load": run_benchmark(ON_LOAD, "--pending"),
        "overlap": run_benchmark(OVERLAP, "--step"),
        "compiled": run_benchmark(AUTO, "--compile"),
    }


def run_benchmark(variables: Mapping[str, str], *options: str) -> dict[str, Any]:
    done = run(["benchmarks/gpu.py", *options], variables, echo=False)
    lines = done.pop("output").splitlines()
    return {**done, **(json.loads(lines[-1]) if done["exit_code"] == 0 else {"said": lines[-20:]})}


def run(
    arguments: Sequence[str], variables: Mapping[str, str], before: Sequence[str] = (), echo: bool = True
) -> dict[str, Any]:
    """This interpreter's exit code and seconds; its output is shown, or returned."""
    path = os.pathsep.join([*(str(ROOT / folder) for folder in FOLDERS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    begin = time.monotonic()
    limit = max(0.0, min(LIMIT, BEGUN + WHOLE - begin))
    kept: Mapping[str, Any] = {} if echo else {"stdout": subprocess.PIPE, "text": True}
    # In a session of its own, so that what it has started can be ended with it, and disturbs no later stage.
    program = subprocess.Popen(
        [*before, sys.executable, *arguments], cwd=ROOT, env=environment, start_new_session=True, **kept
    )
    try:
        output, _ = program.communicate(timeout=limit)
        code = program.returncode
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()
        code, output = 124, f"stopped after {limit:.0f} seconds"
    except BaseException:  # Ctrl-C, which it does not get
        os.killpg(program.pid, signal.SIGKILL)
        raise
    result = {"exit_code": code, "seconds": round(time.monotonic() - begin, 1)}
    return result if echo else {**result, "output": output or ""}


def failures(record: Mapping[str, Any]) -> list[str]:
    """The stages that did not pass. A test that is skipped proves nothing, so it counts."""
    found = [] if record["machine"]["counts_kernels"] else ["counts_kernels"]
    if record["tests"]["exit_code"] or record["tests"]["skipped"]:
        found.append("tests")
    stages = {**record["benchmarks"], **{k: v for k, v in record["sanitizer"].items() if k in TOOLS}}
    return found + [name for name, stage in stages.items() if stage["exit_code"]]


STAGES = {"tests": run_tests, "benchmarks": run_benchmarks, "sanitizer": sanitize}


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
