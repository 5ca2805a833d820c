"""``fastgan interpolate``"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from fastgan.cli.generate import Label, Seed, Truncation, label_of
from fastgan.cli.loading import Run, load_gan
from fastgan.cli.output import check_file, writing
from fastgan.cli.values import check_least, place, whole
from fastgan.errors import UserError, counted

__all__ = ["interpolate"]

FILMS = (".gif", ".mp4")


def interpolate(
    run: Run = None,
    points: Annotated[
        int, typer.Option(help="Latents that the film passes through.", parser=whole(5), metavar="N")
    ] = 5,
    steps: Annotated[
        int, typer.Option(help="Pictures from one of them to the next.", parser=whole(16), metavar="N")
    ] = 16,
    loop: Annotated[bool, typer.Option("--loop/--no-loop", help="Go back to the first at the end.")] = True,
    tiles: Annotated[int, typer.Option(help="Walks side by side.", parser=whole(9), metavar="N")] = 9,
    fps: Annotated[int, typer.Option(help="Pictures a second.", parser=whole(16), metavar="N")] = 16,
    seed: Seed = 0,
    label: Label = None,
    truncation: Truncation = None,
    out: Annotated[
        str,
        typer.Option(help="The film to write: .gif, or .mp4 where ffmpeg is installed.", parser=place, metavar="FILE"),
    ] = "interpolation.gif",
) -> None:
    """Write a film of images that turn into each other."""
    check_least(points=(points, 2), steps=(steps, 1), tiles=(tiles, 1), fps=(fps, 1))
    film = _film(out)
    from fastgan.films import check_film, write_film

    check_film(film)
    gan = load_gan(run)
    import torch

    from fastgan._memory import check_fits
    from fastgan.images import image_grid
    from fastgan.latents import path

    pictures = points * steps if loop else (points - 1) * steps + 1
    of_one = 8 * math.prod(gan.latent_shape)  # apart, and then in one tensor
    if film.suffix.lower() == ".gif":  # which is written at once
        of_one += gan.channels * math.prod(gan.image_size)
    check_fits(pictures * tiles * of_one, f"{pictures:,} pictures of {tiles:,} walks", "make a shorter or smaller film")
    drawn = gan.latents(points * tiles, seed, truncation=truncation).unflatten(0, (points, tiles))
    walks = torch.stack([path(drawn[:, tile], steps, loop=loop) for tile in range(tiles)], 1)
    # A walk keeps its class: there is nothing between two of them.
    in_turn = gan.num_classes and label is None
    labels = [tile % gan.num_classes for tile in range(tiles)] if in_turn else label_of(gan, label)
    frames = (image_grid(gan.images_of(latents, label=labels)) for latents in walks)
    with writing(out):
        write_film(frames, film, fps)
    made = f"{counted(len(walks), 'picture')} of {counted(tiles, 'walk')}"
    print(f"{out}: {made} by {gan.path} (step {gan.step}), seed {seed}")


def _film(out: str) -> Path:
    """Where to write; raises UserError, before any work, where it cannot be."""
    path = Path(out)
    if path.suffix.lower() not in FILMS:
        raise UserError(f"out is {out}, which is not the name of a film; let it end in .gif or .mp4.")
    check_file(path)
    return path
