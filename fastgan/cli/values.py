"""How values are written on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from fastgan.errors import UserError

__all__ = ["check_least", "number", "place", "size", "whole", "whole_or_auto"]


def check_least(**counts: tuple[int, int]) -> None:
    """Raises UserError where one of the options, by name, is below the other number, the least that it may be."""
    for name, (value, least) in counts.items():
        if value < least:
            raise UserError(f"{name} must be a whole number of at least {least}, but it is {value}; give another one.")


def whole(example: int) -> Callable[[str], Any]:
    """Reads a whole number, such as ``example``."""
    return _read(int, "a whole number", str(example))


def number(example: str) -> Callable[[str], Any]:
    """Reads a number, such as ``example``."""
    return _read(float, "a number", example)


def _read(kind: type, what: str, example: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not {what}; give for example {example}.") from None

    return read


def whole_or_auto(text: str) -> Any:
    """A whole number, or "auto"."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto; give one of them.") from None


def place(text: str) -> str:
    """Where to write; refuses an empty text, which as a path is the current folder."""
    if not str(text):
        raise typer.BadParameter("it is empty; give the path to write to, or leave it out.")
    return text


def size(text: str) -> Any:
    """64, or 48x64 as (height, width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise typer.BadParameter(f"{text!r} is not a size; give 64, or height x width as in 48x64.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
