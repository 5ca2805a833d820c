"""Which compilers are used, with which flags, for which instruction sets and GPUs."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import BuildError, warn
from .find_torch import Torch

TARGET = "0x020b000000000000"  # torch 2.11, so that a build on a later torch also loads there
OLDEST_NVCC = (12, 0)  # the first that knows sm_90a and C++17 as used here
DEFAULT_ARCHS = ["sm_75", "sm_80", "sm_90a", "compute_90"]

HOST = ["-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra"]
COMMON = ["-std=c++17", "-O3"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [
    *(*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"),
    "-Wno-maybe-uninitialized",  # false for gcc's own AVX-512 intrinsics, which start from an undefined vector
]
X86_ISAS = {"scalar": [], "avx2": AVX2, "avx512": AVX512, "avx512_bf16": [*AVX512, "-mavx512bf16"]}
# torch's names for groups of architectures
NAMED_ARCHS = {
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}


@dataclass(frozen=True)
class Compiler:
    command: list[str]
    description: str  # "g++ (Debian 12.2.0-14) 12.2.0"


@dataclass(frozen=True)
class Nvcc:
    path: Path
    version: tuple[int, int]


@dataclass(frozen=True)
class Cuda:
    """What is decided about CUDA: an nvcc and architectures, or the sentence why there is none."""

    nvcc: Nvcc | None = None
    archs: list[str] = field(default_factory=list)
    why_not: str = ""


def check() -> None:
    """Raise where the machine lacks what every build needs."""
    check_platform()
    find_compiler()
    find_nvcc()


def check_platform(system: str = sys.platform) -> None:
    if system != "linux":
        raise BuildError(f"the native code builds on Linux only, and this is {system!r}; on Windows use WSL 2.")


def max_jobs(env: Mapping[str, str] = os.environ) -> int | None:
    """MAX_JOBS, or None for one a core."""
    text = env.get("MAX_JOBS", "")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise BuildError(f"MAX_JOBS is {text!r}; set it to a number of at least 1, or unset it for one job a core.")
    return int(text)


# ---- C++ ------------------------------------------------------------------------------------------------------------


def find_compiler(env: Mapping[str, str] = os.environ) -> Compiler:
    """$CXX, else the first of g++, clang++, c++ on PATH."""
    named = shlex.split(env.get("CXX", ""))
    if named and not shutil.which(named[0], path=env.get("PATH")):
        raise BuildError(f"CXX names the compiler {env['CXX']!r}, which is not on PATH; correct or unset CXX.")
    found = named or [name for name in ("g++", "clang++", "c++") if shutil.which(name, path=env.get("PATH"))][:1]
    if not found:
        raise BuildError(
            "no C++ compiler was found (looked for g++, clang++ and c++ on PATH, and CXX is not set); "
            "install one with C++17, such as with `apt install g++`, or set CXX to it."
        )
    program = shutil.which(found[0], path=env.get("PATH"))
    version = subprocess.run([program, *found[1:], "--version"], capture_output=True, text=True, check=False).stdout
    return Compiler(found, (version.splitlines() or [shlex.join(found)])[0])


def isas(machine: str = "") -> dict[str, list[str]]:
    """Instruction sets that kernels are compiled for, each with its flags."""
    is_x86 = (machine or platform.machine()) in ("x86_64", "AMD64")
    return X86_ISAS if is_x86 else {"scalar": []}


def cxx_flags(env: Mapping[str, str] = os.environ) -> list[str]:
    """CXXFLAGS come last, so that they win."""
    return [*COMMON, *HOST, *_defines(), *shlex.split(env.get("CXXFLAGS", ""))]


def _defines() -> list[str]:
    emulation = ["-DFASTGAN_EMULATE_AMX=1"] if emulates_amx() else []
    return [f"-DTORCH_TARGET_VERSION={TARGET}", f"-DFASTGAN_X86={int(len(isas()) > 1)}", *emulation]


def emulates_amx(env: Mapping[str, str] = os.environ) -> bool:
    """FASTGAN_EMULATE_AMX: whether plain C++ takes the place of AMX instructions, slowly (csrc/conv/amx.h)."""
    value = env.get("FASTGAN_EMULATE_AMX", "")
    if value not in ("", "0", "1"):
        raise BuildError(f"FASTGAN_EMULATE_AMX is {value!r}; set it to 1 to test without AMX, or unset it.")
    return value == "1"


def python_include() -> Path | None:
    """The folder of Python.h, or None where the interpreter came without it (Debian's python3 without python3-dev)."""
    include = Path(sysconfig.get_path("include"))
    return include if (include / "Python.h").is_file() else None


# ---- CUDA -----------------------------------------------------------------------------------------------------------


def cuda_wish(env: Mapping[str, str] = os.environ) -> bool | None:
    """FASTGAN_CUDA: False never, True must, None where nvcc is there."""
    value = env.get("FASTGAN_CUDA", "")
    if value not in ("", "0", "1"):
        raise BuildError(f"FASTGAN_CUDA is {value!r}; set it to 0 (never) or 1 (must), or unset it (if nvcc is there).")
    return {"": None, "0": False, "1": True}[value]


def find_nvcc(env: Mapping[str, str] = os.environ) -> Path | None:
    """nvcc where torch looks for it (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda), if it is there and wanted."""
    wish = cuda_wish(env)
    if wish is False:
        return None
    home = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    folders = [f"{home}/bin"] if home else [*env.get("PATH", "").split(os.pathsep), "/usr/local/cuda/bin"]
    found = shutil.which("nvcc", path=os.pathsep.join(folders))
    if wish and not found:
        where = f"in {folders[0]}" if home else "on PATH or in /usr/local/cuda/bin"
        raise BuildError(
            f"FASTGAN_CUDA=1 asks for the CUDA kernels, but there is no nvcc {where}; "
            "install the CUDA toolkit and set CUDA_HOME to it, or unset FASTGAN_CUDA."
        )
    return Path(found) if found else None


def nvcc_version(path: Path) -> tuple[int, int]:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+)\.(\d+)", text)
    if not match:
        raise BuildError(f"{path} --version does not name a release; repair the CUDA toolkit, or set FASTGAN_CUDA=0.")
    return int(match[1]), int(match[2])


def decide_cuda(torch: Torch, has_sources: bool, env: Mapping[str, str] = os.environ) -> Cuda:
    """CUDA or not, and why not. Raises where FASTGAN_CUDA=1 cannot be met."""
    if cuda_wish(env) is False:
        return Cuda(why_not="FASTGAN_CUDA=0 when fastgan was built")
    path = find_nvcc(env)
    if path is None:
        return Cuda(why_not="no nvcc was found when fastgan was built")
    if not has_sources:
        return Cuda(why_not="this version of fastgan has no CUDA kernels")
    version = nvcc_version(path)
    mismatch = nvcc_mismatch(version, torch)
    if mismatch:
        wanted = torch.cuda or "12.0 or newer"
        remedy = f"install the CUDA toolkit {wanted} and set CUDA_HOME to it, or set FASTGAN_CUDA=0"
        if cuda_wish(env):
            raise BuildError(f"FASTGAN_CUDA=1 asks for the CUDA kernels, but {mismatch}; {remedy}.")
        warn(f"the CUDA kernels are left out, because {mismatch}; {remedy}.")
        return Cuda(why_not=mismatch)
    return Cuda(Nvcc(path, version), parse_archs(env.get("TORCH_CUDA_ARCH_LIST", "")))


def nvcc_mismatch(version: tuple[int, int], torch: Torch) -> str:
    """Why this nvcc does not suit this torch; empty where it does. A torch without CUDA leaves the choice open."""
    text = f"{version[0]}.{version[1]}"
    if torch.hip:
        return f"torch {torch.version} is built for ROCm"
    if version < OLDEST_NVCC:
        return f"nvcc is {text}, and 12.0 or newer is needed"
    if torch.cuda and int(torch.cuda.split(".")[0]) != version[0]:
        return f"nvcc is {text} and torch {torch.version} is built for CUDA {torch.cuda}"
    return ""


def parse_archs(text: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0a+PTX", or names such as Hopper) as sm_ and compute_ names; empty: the default."""
    for name, numbers in NAMED_ARCHS.items():
        text = re.sub(rf"\b{name}\b", numbers, text, flags=re.IGNORECASE)
    archs = []
    for entry in re.split(r"[;,\s]+", text.strip()):
        if not entry:
            continue
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if not match:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST has the entry {entry!r}; give numbers such as '8.0', '9.0a' or '9.0+PTX' "
                f"separated by semicolons, or one of {', '.join(NAMED_ARCHS)}."
            )
        number = "".join(match.group(1, 2, 3))
        # Every GPU of 9.0 runs code for sm_90a, which alone has Hopper's matrix instructions; its PTX runs on no other.
        code, ptx = ("90a", "90") if number in ("90", "90a") else (number, number)
        archs += [f"sm_{code}"] + ([f"compute_{ptx}"] if match[4] else [])
    return list(dict.fromkeys(archs)) or list(DEFAULT_ARCHS)


def gencode(archs: list[str]) -> list[str]:
    return [f"-gencode=arch=compute_{arch.split('_')[1]},code={arch}" for arch in archs]


def nvcc_flags(cuda: Cuda, env: Mapping[str, str] = os.environ) -> list[str]:
    """One call compiles for all architectures, side by side: what they share of the work is then done once."""
    flags = [*COMMON, "--expt-relaxed-constexpr", "-DUSE_CUDA", *_defines(), "-Xcompiler", ",".join(HOST)]
    return [*flags, *gencode(cuda.archs), "--threads", str(max_jobs(env) or 0), "-Xptxas", "-v"]


def nvcc_host(compiler: Compiler, env: Mapping[str, str] = os.environ) -> list[str]:
    """The host compiler nvcc is to use: ours, without ccache and flags, unless nvcc's own variable names another."""
    program = [word for word in compiler.command if not word.startswith("-")][-1]
    return [] if env.get("NVCC_CCBIN") else ["-ccbin", program]
