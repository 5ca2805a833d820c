import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fastgan_build import backend, command, find_torch, native, ninja, toolchain
from fastgan_build.errors import BuildError
from fastgan_build.find_torch import Torch
from fastgan_build.native import Build
from fastgan_build.toolchain import Compiler, Cuda, Nvcc

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "common/counters.cpp",
    "common/cpu_features.cpp",
    "common/cuda.cuh",
    "blur/schema.cpp",
    "blur/cpu.cpp",
    "blur/blur_kernels.cpp",
    "blur/kernels.h",
    "blur/cuda.cu",
    "sharpen/cuda.cu",
    "sharpen/wide_cuda.cpp",
    "python/module.cpp",
]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A project of two operators, on an x86 machine with nvcc 13.0."""
    for name in FILES:
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("int x;\n" * (9 if name == "sharpen/cuda.cu" else 1))
    monkeypatch.setattr(native, "STUB", tmp_path / "stub.cpp")
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(toolchain, "python_include", lambda: Path("/include/python"))
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.delenv("NVCC_CCBIN", raising=False)
    cuda = Cuda(Nvcc(Path("/cuda/bin/nvcc"), (13, 0)), ["sm_80", "compute_90"])
    torch = Torch(Path("/env/torch"), "2.13.0", None)
    sources = native.find_sources(tmp_path)
    return Build(tmp_path, "1.2", torch, Compiler(["g++"], "g++ 12.2"), cuda, sources, tmp_path / "fastgan")


def commands(build: Build) -> dict[str, str]:
    return {str(edge.output): edge.shell for edge in native.edges(build)}


def test_sources_are_found_by_place_and_name(build):
    def names(paths):
        return [str(path.relative_to("csrc")) for path in paths]

    found = build.sources
    assert names(found.module) == ["python/module.cpp"]
    assert names(found.cpu) == ["blur/cpu.cpp", "blur/schema.cpp", "common/counters.cpp", "common/cpu_features.cpp"]
    assert names(found.kernels) == ["blur/blur_kernels.cpp"]
    assert names(found.cuda) == ["blur/cuda.cu", "sharpen/cuda.cu"]
    assert names(found.cuda_host) == ["sharpen/wide_cuda.cpp"]
    assert names(found.common) == ["common/counters.cpp", "common/cpu_features.cpp"]


def test_every_file_of_the_project_is_compiled_into_something():
    found = native.find_sources(ROOT)
    used = [*found.module, *found.cpu, *found.kernels, *found.cuda, *found.cuda_host]
    assert sorted(used) == sorted(
        p.relative_to(ROOT) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".cu")
    )
    assert found.module and found.cpu and found.kernels and found.cuda and found.common


def test_kernels_are_compiled_for_each_instruction_set(build):
    objects = {name: text for name, text in commands(build).items() if "blur_kernels" in name}
    assert [name.split("/")[-1] for name in objects] == [
        f"blur_kernels.cpp.{i}.o" for i in ("scalar", "avx2", "avx512", "avx512_bf16")
    ]
    assert [re.search(r"-DFASTGAN_ISA=(\w+)", text)[1] for text in objects.values()] == [
        "scalar",
        "avx2",
        "avx512",
        "avx512_bf16",
    ]
    assert "-mavx512f" in objects["build/native/objects/blur/blur_kernels.cpp.avx512.o"]
    assert "-mavx" not in objects["build/native/objects/blur/blur_kernels.cpp.scalar.o"]


def test_the_libraries_hold_what_they_should(build):
    made = commands(build)
    cpu, cuda = made[str(build.package / "_cpu.so")], made[str(build.package / "_cuda.so")]
    assert "-Wl,-z,defs" in cpu and "-ltorch_cpu" in cpu and "cuda" not in cpu
    assert cpu.count("blur_kernels.cpp") == len(toolchain.isas())
    for name in ("blur/cuda.cu.o", "sharpen/cuda.cu.o", "sharpen/wide_cuda.cpp.o", "common/counters.cpp.o"):
        assert f"build/native/objects/{name}" in cuda
    assert "schema" not in cuda  # an operator is defined once, in _cpu.so
    assert "-Xlinker -z,defs" in cuda and "-ltorch_cuda" in cuda
    assert cuda.index("-Lbuild/native/stub") < cuda.index("-L/env/torch/lib")
    assert "torch" not in made[str(build.module)]


def test_cuda_comes_first_and_its_largest_file_before_the_others(build):
    objects = [str(edge.output).removeprefix("build/native/objects/") for edge in native.edges(build)]
    assert objects[:3] == ["sharpen/cuda.cu.o", "blur/cuda.cu.o", "sharpen/wide_cuda.cpp.o"]


def test_the_device_compiler_is_nvcc_and_its_report_is_kept(build):
    text = commands(build)["build/native/objects/blur/cuda.cu.o"]
    assert text.startswith("/cuda/bin/nvcc -ccbin g++ ")
    assert "-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=compute_90" in text
    assert "> build/native/ptxas/blur/cuda.txt 2>&1" in text
    assert commands(build)["build/native/objects/sharpen/wide_cuda.cpp.o"].startswith("g++ ")


def test_no_path_of_the_project_gets_into_an_object(build):
    objects = [text for name, text in commands(build).items() if name.endswith(".o")]
    assert len(objects) == 8 + len(toolchain.isas())
    assert not any(str(build.root) in text for text in objects)


def test_without_cuda(build):
    build = replace(build, cuda=Cuda(why_not="no nvcc was found"))
    assert not [text for text in commands(build).values() if "nvcc" in text or "torch_cuda" in text]
    assert {path.name.split(".")[0] for path in build.outputs} == {"_cpu", "_C"}


def test_without_the_headers_of_python(build, monkeypatch):
    monkeypatch.setattr(toolchain, "python_include", lambda: None)
    assert build.module is None
    assert {path.name for path in build.outputs} == {"_cpu.so", "_cuda.so"}
    assert not [name for name in commands(build) if "module" in name]


def test_the_facts_are_json_and_rewritten_only_when_they_change(build):
    native.write_facts(build)
    header = build.root / "build/native/build_facts.h"
    facts = json.loads(re.search(r'R"json\((.*)\)json"', header.read_text())[1])
    assert facts["version"] == "1.2"
    assert facts["torch"] == "2.13.0"
    assert (facts["cuda"], facts["nvcc"]) == (["sm_80", "compute_90"], "13.0")
    before = header.stat().st_mtime_ns
    native.write_facts(build)
    assert header.stat().st_mtime_ns == before
    native.write_facts(replace(build, cuda=Cuda(why_not="no nvcc")))
    assert '"cuda": "no nvcc"' in header.read_text()


def test_a_build_without_cuda_removes_the_library_of_an_earlier_one(build, monkeypatch):
    monkeypatch.setattr(ninja, "run", lambda edges, folder, root: None)
    build.package.mkdir()
    library = build.package / "_cuda.so"
    library.touch()
    native.compile(build)
    assert library.exists()
    native.compile(replace(build, cuda=Cuda(why_not="no nvcc")))
    assert not library.exists()


@pytest.mark.parametrize(
    "action, remedy",
    [
        ("compiling csrc/blur/cpu.cpp", r"g\+\+ 12.2 was used: set CXX to another"),
        ("compiling csrc/blur/cuda.cu", r"/cuda/bin/nvcc 13.0 with g\+\+ 12.2 was used: .*CUDA_HOME.*FASTGAN_CUDA=0"),
        ("linking _cuda.so", r"/cuda/bin/nvcc 13.0 with g\+\+ 12.2 was used: .*CUDA_HOME.*FASTGAN_CUDA=0"),
    ],
)
def test_a_compile_error_is_shown_with_one_sentence_and_its_remedy(build, monkeypatch, capsys, action, remedy):
    def fail(edges, folder, root):
        raise ninja.CommandFailed(action, "error: line 3")

    monkeypatch.setattr(ninja, "run", fail)
    with pytest.raises(BuildError, match=f"^{re.escape(action)} failed with the message above; {remedy}"):
        native.compile(build)
    assert "error: line 3" in capsys.readouterr().err


# ---- the hooks that pip calls ---------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine with all that is needed; the torch of its environment can be chosen."""
    monkeypatch.setattr(toolchain, "check", lambda: None)
    return lambda torch: monkeypatch.setattr(find_torch, "installed_torch", lambda: torch)


HOOKS = ["wheel", "editable"]


@pytest.mark.parametrize("kind", HOOKS)
def test_torch_is_asked_for_only_where_there_is_none(machine, monkeypatch, kind):
    monkeypatch.setattr(backend.build_meta, f"get_requires_for_build_{kind}", lambda settings: ["more"])
    requires = getattr(backend, f"get_requires_for_build_{kind}")
    machine(None)
    assert requires() == ["torch==2.13.0", "more"]
    machine(Torch(Path("/env/torch"), "2.11.0", None))
    assert requires() == ["more"]
    machine(Torch(Path("/env/torch"), "2.10.0", None))
    with pytest.raises(BuildError, match=r"2\.10\.0 .*needs 2.11 or newer"):
        requires()


@pytest.mark.parametrize("hook", ["prepare_metadata_for_build", "build"])
@pytest.mark.parametrize("kind", HOOKS)
def test_an_old_torch_stops_every_hook(machine, hook, kind):
    machine(Torch(Path("/env/torch"), "2.10.0", None))
    with pytest.raises(BuildError, match=r"needs 2\.11 or newer"):
        getattr(backend, f"{hook}_{kind}")("nowhere")


def test_an_old_setuptools_is_named_with_the_remedy():
    backend.check_setuptools("77.0.3")
    with pytest.raises(
        BuildError, match=r"65\.5\.0, and the build needs 77 or newer; run `pip install 'setuptools>=77'`"
    ):
        backend.check_setuptools("65.5.0")


def test_the_wheel_is_bound_to_the_platform():
    assert command.NativeDistribution({"name": "x"}).has_ext_modules()


def test_an_error_is_one_sentence_without_a_traceback():
    code = "from fastgan_build.errors import BuildError; raise BuildError('No compiler; install one.')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "build_backend", capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, "fastgan: No compiler; install one.")
