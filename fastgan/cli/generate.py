"""``fastgan generate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastgan.cli.values import whole
from fastgan.errors import UserError

__all__ = ["generate"]


def generate(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's folder or its generator.safetensors; by default the newest under runs/."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many images.", parser=whole, metavar="N")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed makes the same images.", parser=whole, metavar="N")] = 0,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("grid.png"),
) -> None:
    """Write a picture of new images by a trained generator."""
    import fastgan
    from fastgan.images import image_grid, save_image
    from fastgan.training.run_folder import newest_run

    check_picture(out)
    gan = fastgan.load(run or newest_run(), device="auto")
    try:
        save_image(image_grid(gan.generate(count, seed)), out)
    except OSError as error:
        raise UserError(
            f"out is {out}, which cannot be written ({error.strerror or error}); choose another file."
        ) from None
    print(f"{out}: {count} images by {gan.path} (step {gan.step}), seed {seed}")


def check_picture(out: Path) -> None:
    """Raises UserError, before any work, where no picture can be written to ``out``."""
    if out.suffix.lower() not in (".png", ".webp", ".jpg", ".jpeg"):
        raise UserError(f"out is {out}, which is not the name of a picture; let it end in .png, .webp or .jpg.")
    if not out.absolute().parent.is_dir():
        raise UserError(f"out is {out}, but there is no folder {out.parent}; make it or choose another one.")
    if out.is_dir():
        raise UserError(f"out is {out}, which is a folder; give the name of a file.")
