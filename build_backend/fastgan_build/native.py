"""What is compiled from what: csrc/ to fastgan/_C, _cpu.so and _cuda.so. A new operator's files are found by themselves."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    cuda: list[Path]
    common: list[Path]  # those of `cpu` that every library holds


def find_sources(root: Path) -> Sources:
    found = sorted(path.relative_to(root) for path in (root / "csrc").rglob("*.c*") if path.suffix in (".cpp", ".cu"))
    cpp = [path for path in found if path.suffix == ".cpp"]
    module = [path for path in cpp if path.parts[1] == "python"]
    kernels = [path for path in cpp if path.name.endswith("_kernels.cpp")]
    cpu = [path for path in cpp if path not in module and path not in kernels]
    common = [path for path in cpu if path.parts[1] == "common"]
    return Sources(module, cpu, kernels, [path for path in found if path.suffix == ".cu"], common)


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
    sources = find_sources(root)
    build = Build(
        root, version, torch, toolchain.find_compiler(), toolchain.decide_cuda(torch, bool(sources.cuda)), sources, package
    )
    if build.module is None:
        warn(
            "fastgan._C (build facts and kernel counters) is left out, because this Python has no Python.h; "
            "on Debian and Ubuntu, `apt install python3-dev` and install fastgan again."
        )
    return build


def compile(build: Build) -> None:
    """Bring the libraries up to date."""
    write_facts(build)
    for stale in set(build.package.glob("*.so")) - set(build.outputs):
        if stale.name == "_cuda.so":  # of an earlier build, with CUDA
            stale.unlink()
    try:
        ninja.run(list(edges(build)), FOLDER, build.root)
    except ninja.CommandFailed as failed:
        print(failed.output, file=sys.stderr)
        raise BuildError(remedy(build, failed.source)) from None


def remedy(build: Build, source: str) -> str:
    where = f"compiling {source} failed with the message above, using "
    if source.endswith(".cu") or "_cuda" in source:
        return (
            f"{where}{build.cuda.nvcc.path} {'.'.join(map(str, build.cuda.nvcc.version))}; set FASTGAN_CUDA=0 to build "
            "without the CUDA kernels, or CUDA_HOME or CXX to toolchains that suit each other."
        )
    return (
        f"{where}{build.compiler.description}; set CXX to another C++17 compiler (g++ 11 or clang 14 and newer), "
        "or report the message."
    )


# ---- commands ---------------------------------------------------------------------------------------------------------


def edges(build: Build) -> Iterator[Edge]:
    """Every command of the build."""
    flags = [*toolchain.cxx_flags(), "-Icsrc", "-isystem", str(build.torch.include)]
    compiler = build.compiler.command

    def compiled(sources: Sequence[Path], extra: Sequence[str] = (), tag: str = "") -> list[Edge]:
        return [_compile([*compiler, *flags, *extra], source, tag) for source in sources]

    objects = compiled(build.sources.cpu)
    for isa, isa_flags in toolchain.isas().items():
        objects += compiled(build.sources.kernels, [f"-DFASTGAN_ISA={isa}", *isa_flags], f".{isa}")
    yield from objects
    torch_lib = [f"-L{build.torch.lib}", "-ltorch_cpu"]
    link = [*compiler, "-shared", "-Wl,-z,defs"]
    yield _link(link, build.package / "_cpu.so", [edge.output for edge in objects], torch_lib)

    if build.module:
        include = ["-isystem", str(toolchain.python_include()), f"-I{FOLDER}"]
        module = compiled(build.sources.module, include)
        yield from module
        features = [edge.output for edge in objects if edge.inputs[0].name == "cpu_features.cpp"]
        # The interpreter provides the symbols of Python, so they stay undefined here.
        yield _link([*compiler, "-shared"], build.module, [edge.output for edge in module] + features, ["-ldl"])

    if build.cuda.nvcc:
        yield from _cuda_edges(build, [edge for edge in objects if edge.inputs[0] in build.sources.common])


def _cuda_edges(build: Build, common: Sequence[Edge]) -> Iterator[Edge]:
    compiler, nvcc = build.compiler.command, str(build.cuda.nvcc.path)
    stub_source, stub = STUB.relative_to(build.root), FOLDER / "stub" / "libtorch_cuda.so"
    soname = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so"]
    yield Edge(stub, [stub_source], [*compiler, *soname, str(stub_source), "-o", str(stub)], "link")

    flags = toolchain.nvcc_flags(build.cuda, build.compiler)
    objects = [
        _compile([nvcc, *flags, "-Icsrc", "-isystem", str(build.torch.include)], source) for source in build.sources.cuda
    ]
    yield from objects
    # The CUDA runtime is linked statically (nvcc's default), so that no other version of it need be found at run time.
    link = [nvcc, "-shared", *flags[flags.index("-ccbin") :]] if "-ccbin" in flags else [nvcc, "-shared"]
    libraries = [f"-L{stub.parent}", f"-L{build.torch.lib}", "-Xlinker", "-z,defs", "-Xlinker", "--no-as-needed"]
    inputs = [edge.output for edge in [*objects, *common]]
    yield _link(link, build.package / "_cuda.so", inputs, [*libraries, "-ltorch_cuda", "-ltorch_cpu"], [stub])


def _compile(command: Sequence[str], source: Path, tag: str = "") -> Edge:
    output = FOLDER / "objects" / source.with_suffix(f"{source.suffix}{tag}.o").relative_to("csrc")
    dependencies = ["-MD", "-MF", f"{output}.d"]  # -MD: the headers of torch and the system are dependencies too
    return Edge(output, [source], [*command, *dependencies, "-c", str(source), "-o", str(output)], "compile")


def _link(
    command: Sequence[str], output: Path, objects: Sequence[Path], libraries: Sequence[str], needs: Sequence[Path] = ()
) -> Edge:
    return Edge(output, [*objects, *needs], [*command, *map(str, objects), *libraries, "-o", str(output)], "link")


# ---- facts ------------------------------------------------------------------------------------------------------------


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
    text = ["// Written by the build.", "#pragma once", "#include <utility>", "#include <vector>", ""]
    text += ["namespace fastgan::build {"]
    known = facts(build)
    pairs = [f"{{{_quoted(k)}, {_quoted(v)}}}" for k, v in known.items() if isinstance(v, str)]
    text += ["inline const std::vector<std::pair<const char*, const char*>> facts = {", *_rows(pairs), "};"]
    lists = [
        f"{{{_quoted(k)}, {{{', '.join(map(_quoted, v))}}}}}" for k, v in known.items() if not isinstance(v, str)
    ]
    text += ["inline const std::vector<std::pair<const char*, std::vector<const char*>>> lists = {", *_rows(lists), "};"]
    header = build.root / FOLDER / "build_facts.h"
    content = "\n".join([*text, "}  // namespace fastgan::build", ""])
    if not header.is_file() or header.read_text() != content:
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(content)


def _quoted(text: str) -> str:
    return json.dumps(text)


def _rows(items: Sequence[str]) -> list[str]:
    return [f"    {item}," for item in items]
