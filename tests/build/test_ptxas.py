"""Every CUDA kernel compiles for the GPUs that are in use, and none runs out of registers."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import register_table
from fastgan_build import native, ninja, ptxas
from fastgan_build.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
ARCHS = ["sm_80", "sm_90a"]
REPORT = """\
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_ZN7fastgan4conv8multiplyINS0_6GatherIfEEfLb0EEEvT_' for 'sm_80'
ptxas info    : Function properties for _ZN7fastgan4conv8multiplyINS0_6GatherIfEEfLb0EEEvT_
    8 bytes stack frame, 4 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 8 bytes cumulative stack size, 18432 bytes smem, 536 bytes cmem[0]
ptxas info    : Compile time = 54.660 ms
ptxas info    : Compiling entry function '_ZN7fastgan3bce12_GLOBAL__N_18gradientIdEEvT_' for 'sm_90a'
ptxas info    : Function properties for _ZN7fastgan3bce12_GLOBAL__N_18gradientIdEEvT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 33 registers, 464 bytes cmem[0]
"""


def is_up_to_date(edges: list[ninja.Edge]) -> bool:
    """Whether the last build's reports are there, and of the sources as they are."""
    program = ninja.find_ninja()
    plan = ROOT / native.FOLDER / "build.ninja"
    if program is None or not plan.is_file() or not all((ROOT / edge.report).is_file() for edge in edges):
        return False
    # To ninja, what a later build without CUDA does not make is a file like any other, and never out of date.
    if not all(f"build {edge.output}" in plan.read_text() for edge in edges):
        return False
    command = [program, "-n", "-f", str(native.FOLDER / "build.ninja"), *(str(edge.output) for edge in edges)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "no work to do" in done.stdout


def reported(edges: list[ninja.Edge]) -> str:
    return "\n".join((ROOT / edge.report).read_text() for edge in edges)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """Of every ``.cu`` file, from the build's own reports; compiled anew where those are missing or lack a GPU."""
    try:
        build = native.decide(ROOT, ROOT / "fastgan", "0")
    except BuildError as error:
        pytest.skip(str(error))
    if not build.cuda.nvcc:
        pytest.skip(build.cuda.why_not)
    edges = [edge for edge in native.edges(build) if edge.report]
    if is_up_to_date(edges):
        found = reported(edges)
        if {*ARCHS} <= {kernel.arch for kernel in ptxas.read(found)}:
            return found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FOLDER", tmp_path_factory.mktemp("ptxas"))
        build = replace(build, cuda=replace(build.cuda, archs=ARCHS))
        edges = [edge for edge in native.edges(build) if edge.report]
        ninja.run(edges, native.FOLDER, ROOT, os.environ)
        return reported(edges)


@pytest.fixture(scope="module")
def kernels(report) -> list[ptxas.Kernel]:
    return ptxas.read(report)


def test_every_kernel_is_compiled_for_both_generations(kernels):
    sources = [path.read_text() for path in (ROOT / "csrc").rglob("*.cuh")]
    written = {
        name
        for text in sources
        for name in re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", text)
    }
    for arch in ARCHS:
        assert {kernel.name for kernel in kernels if kernel.arch == arch} == written


def test_no_kernel_spills(kernels):
    assert [(kernel.symbol, kernel.arch) for kernel in kernels if kernel.spilled] == []


def test_hopper_multiplies_beside_its_threads(report):
    """ptxas says where it makes products of wgmma wait for each other, as for sums that are touched in between."""
    assert "wgmma" not in report


def test_a_report_is_read():
    assert ptxas.read(REPORT) == [
        ptxas.Kernel("_ZN7fastgan4conv8multiplyINS0_6GatherIfEEfLb0EEEvT_", "sm_80", 72, 56, 18432),
        ptxas.Kernel("_ZN7fastgan3bce12_GLOBAL__N_18gradientIdEEvT_", "sm_90a", 33, 0, 0),
    ]
    assert [kernel.name for kernel in ptxas.read(REPORT)] == ["multiply", "gradient"]


def test_the_table_has_a_row_a_kernel_and_goes_between_its_marks():
    table = register_table.table({"conv": ptxas.read(REPORT)})
    assert table.splitlines() == [
        "| folder | kernel | instantiations | registers, sm_80 | registers, sm_90a "
        "| shared memory, bytes | spilled, bytes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `conv` | `gradient` | 1 |  | 33 | 0 | 0 |",
        "| `conv` | `multiply` | 1 | 72 |  | 18432 | 56 |",
    ]
    page = "before\n<!-- registers -->\nold\n<!-- /registers -->\nafter\n"
    assert register_table.fill(page, "new") == "before\n<!-- registers -->\nnew\n<!-- /registers -->\nafter\n"
    with pytest.raises(SystemExit, match="no <!-- registers --> marks"):
        register_table.fill("nothing\n", "new")
