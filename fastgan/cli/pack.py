"""``fastgan pack``"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.cli.program import command, shown
from fastgan.cli.values import place, size, whole, whole_or_auto
from fastgan.errors import counted

if TYPE_CHECKING:
    from fastgan.data.collection import Progress

__all__ = ["pack"]


def pack(
    source: Annotated[str, typer.Argument(help="What to pack: a folder, a zip, a file of arrays, a dataset's name.")],
    out: Annotated[
        str | None,
        typer.Option(
            help="The folder to write; by default NAME-HxW.pack here.", parser=place, metavar="PATH", show_default=False
        ),
    ] = None,
    image_size: Annotated[
        Any,
        typer.Option(
            help="Pixels, as 64 (the default) or 48x64, height first.", parser=size, metavar="SIZE", show_default=False
        ),
    ] = None,
    channels: Annotated[Any, typer.Option(help="1, 3, 4 or auto.", parser=whole_or_auto, metavar="N|auto")] = "auto",
    resize: Annotated[
        str, typer.Option(help="How images get to that size: crop, pad or stretch.", metavar="HOW")
    ] = "crop",
    workers: Annotated[
        int | None,
        typer.Option(help="Threads; by default one a CPU.", parser=whole(2), metavar="N", show_default=False),
    ] = None,
) -> None:
    """Decode and resize images once, for every later run to start at once; goes on where it was stopped."""
    from fastgan import data

    with _bar() as progress:
        folder = data.pack(
            source, out, image_size=image_size, channels=channels, resize=resize, workers=workers, progress=progress
        )
    images = data.load(folder)
    height, width = images.image_size
    print(
        f"{shown(folder)}: {counted(len(images), 'image')}, {height}x{width}, channels={images.channels}, "
        f"{images.images.numel() / 2**20:,.1f} MiB"
    )
    print(f"next:\n  {command('train', '--data', shown(folder))}")


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar in a terminal, otherwise a line now and then."""
    from fastgan.training.progress import Reading

    if not sys.stdout.isatty():
        yield Reading()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("packing")
        yield lambda done, total: bar.update(task, completed=done, total=total)
