from pathlib import Path

import pytest
from fastgan_build import toolchain
from fastgan_build.errors import BuildError
from fastgan_build.find_torch import Torch
from fastgan_build.toolchain import Compiler, Cuda, Nvcc


@pytest.fixture
def program(tmp_path):
    """Makes a program that prints a text; returns its path."""

    def make(name: str, prints: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{prints}'\n")
        path.chmod(0o755)
        return path

    return make


def torch_for(cuda: str | None, hip: str | None = None) -> Torch:
    return Torch(Path("/env/torch"), "2.13.0", cuda, hip)


# ---- C++ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there, chosen", [(["c++", "clang++", "g++"], "g++"), (["c++", "clang++"], "clang++"), (["c++"], "c++")]
)
def test_the_first_compiler_on_path_is_taken(program, tmp_path, there, chosen):
    for name in there:
        program(f"bin/{name}", f"{name} 12.2\nmore")
    found = toolchain.find_compiler({"PATH": str(tmp_path / "bin")})
    assert found == Compiler([chosen], f"{chosen} 12.2")


def test_cxx_wins_with_its_arguments(program, tmp_path):
    for name in ("g++", "ccache", "my++"):
        program(f"bin/{name}", f"{name} 1")
    found = toolchain.find_compiler({"PATH": str(tmp_path / "bin"), "CXX": "ccache my++ -m64"})
    assert found == Compiler(["ccache", "my++", "-m64"], "ccache 1")
    assert toolchain.nvcc_host(found, {}) == ["-ccbin", "my++"]
    assert toolchain.nvcc_host(found, {"NVCC_CCBIN": "g++-12"}) == []


@pytest.mark.parametrize(
    "cxx, sentence", [("", r"no C\+\+ compiler was found .*apt install g\+\+"), ("nope++", r"CXX names .*'nope\+\+'")]
)
def test_a_missing_compiler_is_named_with_the_remedy(tmp_path, cxx, sentence):
    with pytest.raises(BuildError, match=sentence):
        toolchain.find_compiler({"PATH": str(tmp_path), "CXX": cxx})


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_other_systems_are_refused(system):
    with pytest.raises(BuildError, match="Linux only"):
        toolchain.check_platform(system)


def test_instruction_sets_belong_to_the_machine():
    assert list(toolchain.isas("x86_64")) == ["scalar", "avx2", "avx512", "avx512_bf16"]
    assert toolchain.isas("aarch64") == {"scalar": []}


@pytest.mark.parametrize("text, jobs", [("", None), ("1", 1), ("16", 16)])
def test_max_jobs(text, jobs):
    assert toolchain.max_jobs({"MAX_JOBS": text}) == jobs


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5"])
def test_max_jobs_that_is_no_number(text):
    with pytest.raises(BuildError, match=f"MAX_JOBS is '{text}'"):
        toolchain.max_jobs({"MAX_JOBS": text})


def test_cxxflags_win():
    flags = toolchain.cxx_flags({"CXXFLAGS": "-O1 '-DNAME=a b'"})
    assert flags == [*toolchain.cxx_flags({}), "-O1", "-DNAME=a b"]


def test_amx_is_emulated_where_asked_for(monkeypatch):
    monkeypatch.delenv("FASTGAN_EMULATE_AMX", raising=False)
    assert not [flag for flag in toolchain.cxx_flags() if "EMULATE" in flag]
    monkeypatch.setenv("FASTGAN_EMULATE_AMX", "1")
    assert "-DFASTGAN_EMULATE_AMX=1" in toolchain.cxx_flags()
    with pytest.raises(BuildError, match="FASTGAN_EMULATE_AMX is 'yes'; set it to 1"):
        toolchain.emulates_amx({"FASTGAN_EMULATE_AMX": "yes"})


# ---- CUDA -----------------------------------------------------------------------------------------------------------


def test_nvcc_of_cuda_home_comes_before_that_on_path(program, tmp_path):
    on_path, at_home = program("bin/nvcc"), program("home/bin/nvcc")
    env = {"PATH": str(tmp_path / "bin")}
    assert toolchain.find_nvcc(env) == on_path
    assert toolchain.find_nvcc({**env, "CUDA_HOME": str(tmp_path / "home")}) == at_home
    assert toolchain.find_nvcc({**env, "CUDA_PATH": str(tmp_path / "home")}) == at_home
    assert toolchain.find_nvcc({**env, "CUDA_HOME": str(tmp_path / "empty")}) is None
    assert toolchain.find_nvcc({**env, "FASTGAN_CUDA": "0"}) is None


def test_a_wanted_nvcc_that_is_missing(tmp_path):
    with pytest.raises(BuildError, match=f"FASTGAN_CUDA=1 .* no nvcc in {tmp_path}/bin; .*CUDA_HOME"):
        toolchain.find_nvcc({"PATH": "", "CUDA_HOME": str(tmp_path), "FASTGAN_CUDA": "1"})


def test_an_unknown_wish():
    with pytest.raises(BuildError, match=r"FASTGAN_CUDA is 'yes'; set it to 0 .* or 1"):
        toolchain.cuda_wish({"FASTGAN_CUDA": "yes"})


def test_a_broken_nvcc(program):
    with pytest.raises(BuildError, match="does not name a release; repair the CUDA toolkit, or set FASTGAN_CUDA=0"):
        toolchain.nvcc_version(program("nvcc", "cannot run"))


@pytest.fixture
def cuda_env(program, tmp_path):
    """An environment whose CUDA_HOME has an nvcc of a given release."""

    def make(release: str, **more: str) -> dict[str, str]:
        program("cuda/bin/nvcc", f"Cuda compilation tools, release {release}, V{release}.1")
        return {"PATH": "", "CUDA_HOME": str(tmp_path / "cuda"), **more}

    return make


@pytest.mark.parametrize("torch_cuda", [None, "13.0", "13.2"])
def test_cuda_is_built_where_nvcc_suits(cuda_env, tmp_path, torch_cuda, capsys):
    cuda = toolchain.decide_cuda(torch_for(torch_cuda), True, cuda_env("13.0"))
    assert cuda.nvcc == Nvcc(tmp_path / "cuda/bin/nvcc", (13, 0))
    assert cuda.archs == ["sm_75", "sm_80", "sm_90a", "compute_90"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "release, torch, reason",
    [
        ("11.8", torch_for("11.8"), "nvcc is 11.8, and 12.0 or newer is needed"),
        ("11.8", torch_for(None), "nvcc is 11.8, and 12.0 or newer is needed"),
        ("12.9", torch_for("13.0"), "nvcc is 12.9 and torch 2.13.0 is built for CUDA 13.0"),
        ("13.0", torch_for("12.8"), "nvcc is 13.0 and torch 2.13.0 is built for CUDA 12.8"),
        ("13.0", torch_for(None, hip="7.0"), "torch 2.13.0 is built for ROCm"),
    ],
)
def test_an_nvcc_that_does_not_suit(cuda_env, capsys, release, torch, reason):
    cuda = toolchain.decide_cuda(torch, True, cuda_env(release))
    warning = capsys.readouterr().err
    assert cuda == Cuda(why_not=reason)
    assert warning.count("warning") == 1
    assert f"left out, because {reason}; " in warning
    assert "FASTGAN_CUDA=0" in warning
    with pytest.raises(BuildError, match=f"FASTGAN_CUDA=1 asks for the CUDA kernels, but {reason}"):
        toolchain.decide_cuda(torch, True, cuda_env(release, FASTGAN_CUDA="1"))


@pytest.mark.parametrize("extra, reason", [({}, "no nvcc was found"), ({"FASTGAN_CUDA": "0"}, "FASTGAN_CUDA=0")])
def test_without_cuda_the_reason_is_kept_and_nothing_is_said(tmp_path, capsys, extra, reason):
    cuda = toolchain.decide_cuda(torch_for("13.0"), True, {"PATH": "", "CUDA_HOME": str(tmp_path), **extra})
    assert cuda.nvcc is None
    assert cuda.why_not == f"{reason} when fastgan was built"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text, archs",
    [
        ("", ["sm_75", "sm_80", "sm_90a", "compute_90"]),
        (" ", ["sm_75", "sm_80", "sm_90a", "compute_90"]),
        ("8.0", ["sm_80"]),
        ("8.0;9.0a", ["sm_80", "sm_90a"]),
        ("8.0 9.0+PTX", ["sm_80", "sm_90a", "compute_90"]),
        ("9.0", ["sm_90a"]),
        ("7.5,8.6;8.6", ["sm_75", "sm_86"]),
        ("10.0f;12.0+PTX", ["sm_100f", "sm_120", "compute_120"]),
        ("Hopper", ["sm_90a", "compute_90"]),
        ("ampere", ["sm_80", "sm_86", "compute_86"]),
    ],
)
def test_arch_list(text, archs):
    assert toolchain.parse_archs(text) == archs


@pytest.mark.parametrize("text", ["sm_80", "80", "8.0+", "8.0;Maxwell", "9.0b"])
def test_an_arch_list_that_cannot_be_read(text):
    with pytest.raises(BuildError, match=r"TORCH_CUDA_ARCH_LIST has the entry '.*Hopper"):
        toolchain.parse_archs(text)


def test_nvcc_flags():
    cuda = Cuda(Nvcc(Path("nvcc"), (13, 0)), ["sm_80", "sm_90a", "compute_90"])
    flags = toolchain.nvcc_flags(cuda, {"MAX_JOBS": "3"})
    assert [flag for flag in flags if flag.startswith("-gencode")] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert flags[flags.index("--threads") + 1] == "3"
    assert flags[flags.index("-Xptxas") + 1] == "-v"
    assert "-DTORCH_TARGET_VERSION=0x020b000000000000" in flags
    assert "--threads 0" in " ".join(toolchain.nvcc_flags(cuda, {}))
