"""The generator that a command applies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fastgan.cli.program import command
from fastgan.cli.starting import without_garbage_collection

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
    with without_garbage_collection():
        from fastgan.generation import SHIPPED, load
    gan = load(run, device=device)
    if gan.path == SHIPPED:
        print(f"this is the generator of digits that comes with fastgan; `{command('train')}` makes your own")
    return gan
