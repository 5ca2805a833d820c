"""Runs the operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer; any finding is a failure.

    python tools/sanitize.py [pytest's arguments]

What is tested is a copy of the project in ``build/sanitize``, so that the ordinary build stays as it is. In it AMX is
emulated: sanitizers do not see what a tile instruction reads, and most machines have none.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "build" / "sanitize"
FOLDERS = ["csrc", "build_backend", "fastgan", "tests"]
FILES = ["setup.py", "pyproject.toml", "README.md", "LICENSE"]
FLAGS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
OPTIMIZATION = "-O1"  # with -O3, vector code of intrinsics takes gcc many minutes to compile under sanitizers
OPTIONS = {
    # Python and torch leave memory to the end of the process, and are not the first library to be loaded.
    "ASAN_OPTIONS": "detect_leaks=0,verify_asan_link_order=0,allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1,print_stacktrace=1",
}
# The other tests expect the rule's choice, not a forced one.
NATIVE = "bad_arguments or conv_engine or gradients or properties or float32 or float64"


def copy_sources() -> None:
    """Anew, so that nothing removed stays, with the files' times, so that only what changed is compiled."""
    COPY.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        shutil.rmtree(COPY / name, ignore_errors=True)
        shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, COPY / name)


def runtime(compiler: list[str], name: str) -> str:
    """The path of a sanitizer's library, which the interpreter loads first, since it was not linked to it."""
    command = [*compiler, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        sys.exit(f"{shlex.join(compiler)} has no {name}; set CXX to a g++ that has it, or unset CXX.")
    return path


def main(arguments: list[str]) -> int:
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    preload = " ".join(runtime(compiler, name) for name in ("libasan.so", "libubsan.so"))
    copy_sources()
    environment = {**os.environ, "FASTGAN_CUDA": "0", "FASTGAN_EMULATE_AMX": "1", "PYTHONPATH": str(COPY)}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    cxx = shlex.join([*compiler, *FLAGS])
    done = subprocess.run(build, cwd=COPY, env={**environment, "CXX": cxx, "CXXFLAGS": OPTIMIZATION}, check=False)
    if done.returncode:
        return done.returncode
    environment |= {"LD_PRELOAD": preload, **OPTIONS}
    tests = [sys.executable, "-m", "pytest", "-q", *(arguments or ["tests/ops"])]
    failures = 0
    for engine, selection in (("auto", []), ("native", ["-k", NATIVE])):
        done = subprocess.run([*tests, *selection], cwd=COPY, env=environment | {"FASTGAN_ENGINE": engine}, check=False)
        failures += done.returncode != 0
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
