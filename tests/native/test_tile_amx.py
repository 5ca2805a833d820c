"""The AMX micro-kernel, which most machines cannot run: on emulated tiles, and in what the compiler makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastgan_build import toolchain

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "csrc/conv/tile_amx.cpp"
INSTRUCTIONS = ["ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"]


def compile(output: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [*toolchain.find_compiler().command, *arguments, "-Icsrc", "-o", str(output)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("amx")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (folder / "empty.cpp").write_text("int main() {}\n")
    if compile(folder / "empty", str(folder / "empty.cpp"), *sanitizers).returncode:
        pytest.skip("the compiler has no sanitizers here")
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-DFASTGAN_EMULATE_AMX=1"]
    done = compile(folder / "program", SOURCE, "tests/native/tile_amx.cpp", *flags, *sanitizers)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def test_products_on_emulated_tiles(program):
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_emulation_notices_tiles_that_were_not_configured(program):
    done = subprocess.run([program, "unconfigured"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "a tile is used before _tile_loadconfig or after _tile_release" in done.stderr


def test_the_compiler_keeps_what_the_instructions_read(tmp_path):
    if len(toolchain.isas()) == 1 or not shutil.which("objdump"):
        pytest.skip("for x86, with objdump")
    done = compile(tmp_path / "tile.o", "-c", SOURCE, *toolchain.cxx_flags())
    assert (done.returncode, done.stderr) == (0, "")
    command = ["objdump", "-d", "--no-show-raw-insn", tmp_path / "tile.o"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "begin" not in text:
        pytest.skip("this compiler does not know AMX")
    assert [name for name in INSTRUCTIONS if not re.search(rf"\b{name}\b", text)] == []
    assert re.search(r"ldtilecfg .*\(%rip\)", text)  # a constant: nothing has to be stored before
    # The lines of rows that lie unevenly are written before they are read, and not again while they are read.
    copy = re.compile(r"vmovdqu16 +%zmm\d+,.*\{%k\d\}")
    steps = list(re.finditer(r"tileloadd [^\n]*%tmm4\n.*?tdpbf16ps [^\n]*%tmm3\n", text, re.DOTALL))
    assert len(steps) >= 2 and copy.search(text, 0, steps[-1].start())  # loops may come in several versions
    assert not [step for step in steps if copy.search(step[0])]
