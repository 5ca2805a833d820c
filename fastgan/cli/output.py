"""Where commands write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastgan.errors import UserError

__all__ = ["check_file", "check_parent", "is_picture", "writing"]


def is_picture(path: Path) -> bool:
    """Whether this is the name of a picture that can be written."""
    return path.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg")


def check_parent(path: Path, option: str = "out") -> None:
    """Raises UserError, before any work, where there is no folder for ``path``, which the option gives."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} is {path}, but there is no folder {path.parent}; make it or choose another one.")


def check_file(path: Path, option: str = "out") -> None:
    """Raises UserError, before any work, where no file can be written to ``path``, which the option gives."""
    check_parent(path, option)
    if path.is_dir():
        raise UserError(f"{option} is {path}, which is a folder; give the name of a file.")
    if path.exists() and not path.is_file():  # whose name a file would take
        raise UserError(f"{option} is {path}, which is a device or a pipe; give the name of a file.")


@contextmanager
def writing(out: str | Path) -> Iterator[None]:
    """Turns an OSError inside into a sentence about ``out``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"out is {out}, which cannot be written ({error.strerror or error}); choose another file."
        ) from None
