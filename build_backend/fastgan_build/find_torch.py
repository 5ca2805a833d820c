"""Find the torch to build against without importing it: only its version, headers and libraries are needed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError

OLDEST = (2, 11)  # the first with the stable ABI that the sources use (TORCH_TARGET_VERSION in toolchain.py)
NEWEST_TRIED = (2, 14)
PINNED = "torch==2.13.0"  # what is fetched where there is none; an open range would fetch gigabytes of the newest


@dataclass(frozen=True)
class Torch:
    """An installed torch."""

    root: Path  # the package folder
    version: str  # "2.13.0+cpu"
    cuda: str | None  # "13.0"; None in a build without CUDA
    hip: str | None = None

    @property
    def release(self) -> tuple[int, int]:
        return release_of(self.version)

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def lib(self) -> Path:
        return self.root / "lib"


def release_of(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as "2.13.0+cpu" or "2.14.0a0+git123"."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if not match:
        raise BuildError(f"torch reports the version {version!r}, which cannot be read; reinstall torch.")
    return int(match[1]), int(match[2])


def read_torch(root: Path) -> Torch:
    """Read an installed torch's own version.py as text."""
    text = (root / "version.py").read_text()

    def value(name: str) -> str | None:
        match = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE)
        return match[1] if match else None

    return Torch(root, value("__version__") or "", value("cuda"), value("hip"))


def installed_torch() -> Torch | None:
    """The torch of the environment that is being installed into, or None.

    Under pip's build isolation this process does not see that environment, but its interpreter does once the variables
    that isolate it are ignored (-E), whether torch lies in site-packages, the user's site or behind a .pth file.
    """
    # The first entry is the working directory, which is no part of the environment.
    code = "import sys, importlib.util as u; del sys.path[0]; s = u.find_spec('torch'); print(s.origin if s else '')"
    found = subprocess.run([sys.executable, "-E", "-c", code], capture_output=True, text=True, check=False)
    return _torch_at(found.stdout.strip())


def torch_to_build_with() -> Torch:
    """The environment's torch, else this process's own (that of an isolated build), checked."""
    torch = installed_torch()
    if torch is None:
        spec = importlib.util.find_spec("torch")
        torch = _torch_at(spec.origin if spec else None)
    if torch is None:
        raise BuildError(
            f"no torch was found in this environment ({sys.prefix}), and the build needs one; "
            f"run `pip install {PINNED}` first, or install without --no-build-isolation."
        )
    check(torch)
    return torch


def check(torch: Torch) -> None:
    """Raise where ``torch`` cannot be built against."""
    if torch.release < OLDEST:
        raise BuildError(
            f"the torch in this environment is {torch.version} ({torch.root}), and fastgan needs 2.11 or newer; "
            f"run `pip install --upgrade '{PINNED}'`, or install fastgan into another environment."
        )


def requirement(torch: Torch | None) -> str:
    """What the installed package requires of torch.

    The versions tried, so that an environment's own torch is kept; where there is none, up to the pinned one, which the
    build has fetched, so that pip need not fetch another. A later torch that is already there is kept too, since the
    stable ABI promises to work.
    """
    if torch is not None and torch.release > NEWEST_TRIED:
        return "torch>=2.11"
    major, minor = release_of(PINNED.removeprefix("torch==")) if torch is None else NEWEST_TRIED
    return f"torch>=2.11,<{major}.{minor + 1}"


def _torch_at(origin: str | None) -> Torch | None:
    root = Path(os.path.dirname(origin)) if origin else None
    return read_torch(root) if root and (root / "version.py").is_file() else None


def _main(question: str) -> None:
    """For the Makefile: "site" prints the folder that holds a torch that will do, if any; "pin", the one to install."""
    torch = installed_torch()
    if question == "pin":
        print(PINNED)
    elif torch is not None and torch.release >= OLDEST:
        print(torch.root.parent)


if __name__ == "__main__":
    _main(sys.argv[1])
