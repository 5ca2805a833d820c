"""The errors and warnings that fastgan raises on its own account."""

from __future__ import annotations

import os
import warnings

__all__ = ["FastganWarning", "TrainingDiverged", "UserError", "counted", "strict", "warn_once"]


class UserError(ValueError):
    """Something the caller gave cannot be used; the message says what, what is allowed, and what to do.

    The command line prints the message and exits with status 2.
    """


class TrainingDiverged(ArithmeticError):
    """A training run came to infinite or undefined numbers; the message says where, and what it left.

    The command line prints the message and exits with status 3.
    """


class FastganWarning(UserWarning):
    """Something runs, but not the way the caller may expect."""


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """For sentences: "1 image", "5,000 images"."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


_warned: set[str] = set()


def strict() -> bool:
    """True where ``FASTGAN_STRICT=1``: a native kernel that was chosen and cannot run raises instead of warning.

    Raises:
        UserError: where it is neither that nor 0 or empty.
    """
    value = os.environ.get("FASTGAN_STRICT") or "0"
    if value not in ("0", "1"):
        raise UserError(f"FASTGAN_STRICT={value!r} is unknown; choose 0 or 1.")
    return value == "1"


def warn_once(key: str, message: str) -> None:
    """Issue ``message`` as a :class:`FastganWarning`, once a process for each ``key``."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(message, FastganWarning, stacklevel=3)
