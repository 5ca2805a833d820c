"""``fastgan generate``"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.cli.loading import Run, load_gan
from fastgan.cli.output import check_parent, is_picture, writing
from fastgan.cli.values import check_least, number, place, whole
from fastgan.errors import UserError, counted

if TYPE_CHECKING:
    from torch import Tensor

    from fastgan.generation import TrainedGAN

__all__ = ["generate"]

Seed = Annotated[int, typer.Option(help="The same seed makes the same images.", parser=whole(0), metavar="N")]
Label = Annotated[
    str | None,
    typer.Option(
        help="The class, as a number from 0, folders in alphabetical order, or by its name; by default all in turn.",
        metavar="CLASS",
    ),
]
Truncation = Annotated[
    float | None,
    typer.Option(
        help="Standard deviations of the latents to keep: fewer are more typical and less various.",
        parser=number("1.5"),
        metavar="X",
    ),
]


def generate(
    run: Run = None,
    count: Annotated[int, typer.Option(help="How many images.", parser=whole(64), metavar="N")] = 64,
    seed: Seed = 0,
    label: Label = None,
    truncation: Truncation = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Images to make images of, for a run of encoder_decoder: what `fastgan train --data` takes, or "
            "one file.",
            metavar="PATH",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            help="A picture of all (grid.png), a folder for one file each (faces/), a pattern for such (face-{}.png), "
            "or an array (faces.npy: float32 [N, C, H, W] in [-1, 1]).",
            parser=place,
            metavar="PATH",
        ),
    ] = "grid.png",
) -> None:
    """Write new images by a trained generator."""
    check_least(count=(count, 1))
    kind = _kind_of(out)
    gan = load_gan(run)
    if source is None and gan.source_channels is None:
        gan.check_fits(count)
        labels, columns = _rows_by_label(gan, count, label_of(gan, label))
        images, of = gan.generate(count, seed, label=labels, truncation=truncation), f"seed {seed}"
    else:
        ignored = {"label": label, "truncation": truncation, "seed": seed or None}  # 0 is also what is not given
        images, of, columns = _translated(gan, source, count, ignored), f"of {source}", None
    with writing(out):
        _WRITERS[kind](images, out, columns)
    print(f"{out}: {counted(len(images), 'image')} by {gan.path} (step {gan.step}), {of}")


def _kind_of(out: str) -> str:
    """What to write; raises UserError, before any work, where it cannot be."""
    path = Path(out)
    if out.endswith("/") or path.is_dir():
        check_parent(path)
        return "folder"
    if not is_picture(path) and path.suffix.lower() != ".npy":
        raise UserError(
            f"out is {out}, which is not the name of a picture; let it end in .png, .webp or .jpg, in .npy for an "
            "array, or in / for a folder."
        )
    check_parent(path)
    return "array" if not is_picture(path) else "files" if "{}" in path.name else "picture"


def _translated(gan: TrainedGAN, source: str | None, count: int, ignored: dict[str, Any]) -> Tensor:
    """What the generator makes of the first images of ``source``; the options in ``ignored`` have to be None."""
    from fastgan.data import load
    from fastgan.data.collection import read_all
    from fastgan.data.decode import RESIZE_MODES, SUFFIXES
    from fastgan.data.folder import open_file

    if gan.source_channels is None:
        raise UserError(f"source is {source}, but {gan.path} makes its images of latents; leave it out.")
    if source is None:
        raise UserError(f"{gan.path} makes images of images; give it some by --source.")
    for name, value in ignored.items():
        if value is not None:
            raise UserError(f"{name} is {value}, but {gan.path} makes images of images; leave it out.")
    path = Path(source).expanduser()
    if path.suffix.lower() in SUFFIXES and path.is_file():
        sources = read_all(open_file(path), gan.image_size, gan.source_channels, RESIZE_MODES[0])
    else:
        sources = load(source, image_size=gan.image_size, channels=gan.source_channels)
    return gan.translate(sources.images[:count])


def label_of(gan: TrainedGAN, label: str | None) -> int | str | None:
    """The name of a class, or else its number: folders may be called by other numbers than they have."""
    is_number = label is not None and label not in gan.classes and label.lstrip("-").isdecimal()
    return int(label) if is_number else label


def _rows_by_label(
    gan: TrainedGAN, count: int, label: int | str | None
) -> tuple[int | str | list[int] | None, int | None]:
    """Labels and columns so that each row of a grid is of one class, where all of them are asked for."""
    if gan.num_classes == 0 or label is not None:
        return label, None
    columns = -(-count // gan.num_classes)
    return [index // columns for index in range(count)], columns


def _write_picture(images: Tensor, out: str, columns: int | None) -> None:
    from fastgan.images import image_grid, save_image

    save_image(image_grid(images, columns), Path(out))


def _write_files(images: Tensor, out: str, columns: int | None) -> None:
    from fastgan.images import save_image, to_image

    path, digits = Path(out), len(str(len(images) - 1))
    for index, image in enumerate(images):
        save_image(to_image(image), path.with_name(path.name.replace("{}", f"{index:0{digits}d}")))


def _write_folder(images: Tensor, out: str, columns: int | None) -> None:
    Path(out).mkdir(exist_ok=True)
    _write_files(images, f"{out}/{{}}.png", columns)


def _write_array(images: Tensor, out: str, columns: int | None) -> None:
    import numpy as np

    path, array = Path(out), np.ascontiguousarray(images.numpy())
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        with temporary.open("wb") as file:
            # Not np.save, which does not say why a disk takes no more.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_WRITERS = {"picture": _write_picture, "files": _write_files, "folder": _write_folder, "array": _write_array}
