"""The generator that a command applies."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fastgan.cli.program import command

if TYPE_CHECKING:
    from fastgan.generation import TrainedGAN

__all__ = ["Run", "load_gan"]

Run = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder or its generator.safetensors, or digits, the generator that comes with fastgan; by "
        "default the newest run under runs/, or digits where there is none.",
        metavar="RUN",
    ),
]


def load_gan(run: str | None, device: str = "auto") -> TrainedGAN:
    """What :func:`fastgan.load` gives; says so where it is the generator that comes with fastgan."""
    with _without_garbage_collection():
        from fastgan.generation import SHIPPED, load
    gan = load(run, device=device)
    if gan.path == SHIPPED:
        print(f"this is the generator of digits that comes with fastgan; `{command('train')}` makes your own")
    return gan


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """For imports: what they make is never looked through for garbage.

    Importing torch makes objects by the hundred thousand, all of which stay, and Python's collector looks through them
    again and again: about a seventh of the time of `fastgan generate`.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
