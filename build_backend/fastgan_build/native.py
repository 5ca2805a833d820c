"""What is compiled from what: csrc/ to fastgan/_C, _cpu.so and _cuda.so.

Files are found by their place and name, so a new operator needs no word here.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import find_torch, ninja, toolchain
from .errors import BuildError, warn
from .find_torch import Torch
from .ninja import Edge
from .toolchain import Compiler, Cuda

FOLDER = Path("build/native")  # all paths are relative to the project's root, so that none is baked into a library
STUB = Path(__file__).with_name("torch_cuda_stub.cpp")


@dataclass(frozen=True)
class Sources:
    """The files of csrc/, by what becomes of them."""

    module: list[Path]  # the pybind11 module
    cpu: list[Path]
    kernels: list[Path]  # *_kernels.cpp: compiled once for each instruction set
    cuda: list[Path]  # *.cu
    cuda_host: list[Path]  # *cuda.cpp: parts of _cuda.so without device code, which nvcc would compile once a GPU
    common: list[Path]  # those of `cpu` that every library holds


def find_sources(root: Path) -> Sources:
    found = sorted(path.relative_to(root) for path in (root / "csrc").rglob("*.c*") if path.suffix in (".cpp", ".cu"))
    cpp = [path for path in found if path.suffix == ".cpp"]
    module = [path for path in cpp if path.parts[1] == "python"]
    kernels = [path for path in cpp if path.name.endswith("_kernels.cpp")]
    cuda = [path for path in found if path.suffix == ".cu"]
    cuda_host = [path for path in cpp if path.name.endswith("cuda.cpp")]
    cpu = [path for path in cpp if path not in module + kernels + cuda_host]
    common = [path for path in cpu if path.parts[1] == "common"]
    return Sources(module, cpu, kernels, cuda, cuda_host, common)


@dataclass(frozen=True)
class Build:
    """Everything that was decided."""

    root: Path
    version: str
    torch: Torch
    compiler: Compiler
    cuda: Cuda
    sources: Sources
    package: Path  # the folder that gets the libraries

    @property
    def module(self) -> Path | None:
        return self.package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}" if toolchain.python_include() else None

    @property
    def outputs(self) -> list[Path]:
        cuda = [self.package / "_cuda.so"] if self.cuda.nvcc else []
        return [self.package / "_cpu.so", *cuda, *([self.module] if self.module else [])]


def decide(root: Path, package: Path, version: str) -> Build:
    """Look at the machine and decide. Raises BuildError; warns where something is left out that was not asked to be."""
    toolchain.check()
    torch = find_torch.torch_to_build_with()
    compiler, sources = toolchain.find_compiler(), find_sources(root)
    cuda = toolchain.decide_cuda(torch, has_sources=bool(sources.cuda))
    build = Build(root, version, torch, compiler, cuda, sources, package)
    if build.module is None:
        warn(
            "fastgan._C (build facts and kernel counters) is left out, because this Python has no Python.h; "
            "on Debian and Ubuntu, `apt install python3-dev` and install fastgan again."
        )
    return build


def compile(build: Build) -> None:
    """Bring the libraries up to date. Raises BuildError after printing what the compiler said."""
    write_facts(build)
    if not build.cuda.nvcc:
        (build.package / "_cuda.so").unlink(missing_ok=True)  # of an earlier build, with CUDA
    _run(build, list(edges(build)))


def compile_module(build: Build) -> None:
    """fastgan._C alone, for a Python that the libraries were not built with. Raises as :func:`compile` does."""
    build = replace(build, cuda=Cuda(why_not="built beforehand, for what is not known here"))
    write_facts(build)
    made_by = {edge.output: edge for edge in edges(build)}
    linked = made_by.get(build.module)
    _run(build, [*(made_by[path] for path in linked.inputs), linked] if linked else [])


def _run(build: Build, commands: Sequence[Edge]) -> None:
    try:
        ninja.run(commands, FOLDER, build.root)
    except ninja.CommandFailed as failed:
        print(failed.output, file=sys.stderr)
        raise BuildError(f"{failed.action} failed with the message above; {_remedy(build, failed.action)}.") from None


def _remedy(build: Build, action: str) -> str:
    if build.cuda.nvcc and ("cuda" in action or action.endswith(".cu")):
        used = f"{build.cuda.nvcc.path} {'.'.join(map(str, build.cuda.nvcc.version))} with {build.compiler.description}"
        return f"{used} was used: choose others by CUDA_HOME and CXX, or do without CUDA by FASTGAN_CUDA=0"
    return f"{build.compiler.description} was used: set CXX to another C++17 compiler, or report the message"


# ---- commands ------------------------------------------------------------------------------------


def edges(build: Build) -> Iterator[Edge]:
    """Every command of the build. CUDA comes first, since those files take longest."""
    flags = [*toolchain.cxx_flags(), "-Icsrc", "-isystem", str(build.torch.include)]

    def compiled(sources: Sequence[Path], extra: Sequence[str] = (), tag: str = "") -> list[Edge]:
        return [_compile([*build.compiler.command, *flags, *extra], source, tag) for source in sources]

    cpu = compiled(build.sources.cpu)
    common = [edge for edge in cpu if edge.inputs[0] in build.sources.common]
    for isa, isa_flags in toolchain.isas().items():
        cpu += compiled(build.sources.kernels, [f"-DFASTGAN_ISA={isa}", *isa_flags], f".{isa}")
    if build.cuda.nvcc:
        yield from _cuda_edges(build, compiled(build.sources.cuda_host, ["-DUSE_CUDA"]), common)
    yield from cpu
    link = [*build.compiler.command, "-shared", "-Wl,-z,defs"]
    yield _link(link, build.package / "_cpu.so", cpu, [f"-L{build.torch.lib}", "-ltorch_cpu"])
    if build.module:
        include = ["-isystem", str(toolchain.python_include()), f"-I{FOLDER}"]
        module = compiled(build.sources.module, include)
        features = [edge for edge in common if edge.inputs[0].name == "cpu_features.cpp"]
        yield from module
        # The interpreter provides the symbols of Python, so they stay undefined here.
        yield _link([*build.compiler.command, "-shared"], build.module, [*module, *features], ["-ldl"])


def _cuda_edges(build: Build, host: Sequence[Edge], common: Sequence[Edge]) -> Iterator[Edge]:
    nvcc, flags = str(build.cuda.nvcc.path), toolchain.nvcc_flags(build.cuda)
    ccbin = toolchain.nvcc_host(build.compiler)
    include = ["-Icsrc", "-isystem", str(build.torch.include)]
    largest_first = sorted(build.sources.cuda, key=lambda source: -(build.root / source).stat().st_size)
    device = [_compile([nvcc, *ccbin, *flags, *include], source) for source in largest_first]
    objects = [*(replace(edge, report=_ptxas_report(edge)) for edge in device), *host]
    yield from objects

    stub_source, stub = STUB.relative_to(build.root), FOLDER / "stub" / "libtorch_cuda.so"
    soname = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so"]
    yield Edge(stub, [stub_source], [*build.compiler.command, *soname, str(stub_source), "-o", str(stub)], "link")

    # The CUDA runtime is linked statically (nvcc's default), so that no other version of it need be found at run time.
    libraries = [f"-L{stub.parent}", f"-L{build.torch.lib}", "-Xlinker", "-z,defs", "-Xlinker", "--no-as-needed"]
    libraries += ["-ltorch_cuda", "-ltorch_cpu"]
    yield _link([nvcc, *ccbin, "-shared"], build.package / "_cuda.so", [*objects, *common], libraries, [stub])


def _compile(command: Sequence[str], source: Path, tag: str = "") -> Edge:
    output = FOLDER / "objects" / source.with_suffix(f"{source.suffix}{tag}.o").relative_to("csrc")
    dependencies = ["-MD", "-MF", f"{output}.d"]  # -MD: the headers of torch and the system are dependencies too
    return Edge(output, [source], [*command, *dependencies, "-c", str(source), "-o", str(output)], "compile")


def _ptxas_report(edge: Edge) -> Path:
    """Registers and spills of each kernel."""
    return FOLDER / "ptxas" / edge.inputs[0].relative_to("csrc").with_suffix(".txt")


def _link(
    command: Sequence[str], output: Path, objects: Sequence[Edge], libraries: Sequence[str], needs: Sequence[Path] = ()
) -> Edge:
    files = [edge.output for edge in objects]
    return Edge(output, [*files, *needs], [*command, *map(str, files), *libraries, "-o", str(output)], "link")


# ---- facts ---------------------------------------------------------------------------------------


def facts(build: Build) -> dict[str, str | list[str]]:
    """What `fastgan._C.build_info()` says."""
    cuda: dict[str, str | list[str]] = {"cuda": build.cuda.why_not, "nvcc": ""}
    if build.cuda.nvcc:
        cuda = {"cuda": build.cuda.archs, "nvcc": ".".join(map(str, build.cuda.nvcc.version))}
    return {
        "version": build.version,
        "compiler": build.compiler.description,
        "flags": " ".join(toolchain.cxx_flags()),
        "torch": build.torch.version,
        "isas": list(toolchain.isas()),
        **cuda,
    }


def write_facts(build: Build) -> None:
    """build_facts.h, rewritten only where it changed, so that nothing is compiled for nothing."""
    text = json.dumps(facts(build))
    content = f'// Written by the build.\n#define FASTGAN_BUILD_FACTS R"json({text})json"\n'
    header = build.root / FOLDER / "build_facts.h"
    if not header.is_file() or header.read_text() != content:
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(content)
