"""A list of compile and link commands, as a build.ninja, and how it is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .toolchain import max_jobs

PTXAS_REPORT = "^ptxas info|^ +[0-9]+ bytes stack frame"


@dataclass(frozen=True)
class Edge:
    """One command, which makes `output` of `inputs`; a compile step has one input and leaves a list of headers."""

    output: Path
    inputs: Sequence[Path]
    command: Sequence[str]
    kind: str  # "compile" or "link"
    report: Path | None = None  # where ptxas's register counts go; everything else the command says is shown

    @property
    def shell(self) -> str:
        """The command for /bin/sh."""
        command = shlex.join(self.command)
        if not self.report:
            return command
        report = shlex.quote(str(self.report))
        return f"{command} > {report} 2>&1; code=$?; grep -vE '{PTXAS_REPORT}' {report}; exit $code"

    def __str__(self) -> str:
        return f"compiling {self.inputs[0]}" if self.kind == "compile" else f"linking {self.output.name}"


class CommandFailed(Exception):
    """A command of the build failed; `action` is which, `output` what the compiler said."""

    def __init__(self, action: str, output: str) -> None:
        super().__init__(action)
        self.action, self.output = action, output


def text_of(edges: Sequence[Edge], folder: Path) -> str:
    """The build.ninja of these edges; ninja keeps its own records in `folder`."""
    lines = ["ninja_required_version = 1.5", f"builddir = {folder}", ""]
    for rule in ("compile", "link"):
        lines += [f"rule {rule}", "  command = $command", "  description = $out"]
        lines += ["  depfile = $out.d", "  deps = gcc", ""] if rule == "compile" else [""]
    for edge in edges:
        inputs = " ".join(_escape(str(path)) for path in edge.inputs)
        lines += [f"build {_escape(str(edge.output))}: {edge.kind} {inputs}"]
        lines += [f"  command = {edge.shell.replace('$', '$$')}", ""]
    return "\n".join(lines)


def run(edges: Sequence[Edge], folder: Path, root: Path, env: Mapping[str, str] = os.environ) -> None:
    """Run what is out of date, in parallel, with `root` as the working directory. Raises CommandFailed."""
    for edge in edges:
        for made in filter(None, (edge.output, edge.report)):
            (root / made).parent.mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "build.ninja").write_text(text_of(edges, folder))
    ninja, jobs = find_ninja(env), max_jobs(env)
    if ninja is None:
        _run_without_ninja(edges, root, jobs or len(os.sched_getaffinity(0)))
        return
    command = [ninja, "-f", str(folder / "build.ninja"), *(["-j", str(jobs)] if jobs else [])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    said = re.sub(r"^(\[\d+/\d+\] |ninja: ).*\n", "", done.stdout, flags=re.MULTILINE)  # the compilers' part
    if done.returncode:
        failed = re.search(r"^FAILED: (?:\[code=\d+\] )?(\S+)", said, re.MULTILINE)
        actions = [str(edge) for edge in edges if failed and str(edge.output) == failed[1]]
        raise CommandFailed(actions[0] if actions else "ninja", said[failed.start() :] if failed else done.stdout)
    print(said, end="", flush=True)


def find_ninja(env: Mapping[str, str] = os.environ) -> str | None:
    """ninja on PATH, or that of the Python package, whose folder is not on PATH in an environment not activated."""
    found = shutil.which("ninja", path=env.get("PATH"))
    if found:
        return found
    beside = Path(sys.executable).parent / "ninja"
    return str(beside) if beside.is_file() else None


def _run_without_ninja(edges: Sequence[Edge], root: Path, jobs: int) -> None:
    """Everything anew, for a --no-build-isolation install where no ninja is at hand."""

    def execute(edge: Edge) -> None:
        said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(edge.shell, shell=True, cwd=root, check=False, **said)
        if done.returncode:
            raise CommandFailed(str(edge), done.stdout)
        print(done.stdout, end="", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(execute, [edge for edge in edges if edge.kind == "compile"]))
    for edge in edges:
        if edge.kind == "link":  # one by one, since a library comes before those linked to it
            execute(edge)


def _escape(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
