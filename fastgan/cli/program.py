"""How the user calls this program, for the commands that it proposes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command", "python", "shown"]


def command(*arguments: str | os.PathLike[str]) -> str:
    """A command of this program as one would type it: ``fastgan ...``, or by the path or module it was called by."""
    called = Path(sys.argv[0])
    found = shutil.which("fastgan")
    if called.name == "__main__.py":
        program = f"{python()} -m fastgan"
    elif found is None or (called.exists() and not called.samefile(found)):
        program = shlex.quote(str(shown(called)))
    else:
        program = "fastgan"
    return " ".join([program, *(shlex.quote(os.fspath(argument)) for argument in arguments)])


def python() -> str:
    """The interpreter that has fastgan, as one would type it here."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and os.path.abspath(found) == os.path.abspath(sys.executable):
            return name
    return shlex.quote(str(shown(Path(sys.executable))))


def shown(path: Path) -> Path:
    """``path`` from the current folder on where it lies in there."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
