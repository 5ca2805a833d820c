"""``fastgan evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgan.cli.generate import Seed, Truncation
from fastgan.cli.loading import Run, load_gan
from fastgan.cli.output import check_parent, writing
from fastgan.cli.values import whole
from fastgan.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from fastgan.evaluation import Evaluation

__all__ = ["evaluate"]

# The values by their names: how they are called, and what is good.
ROWS = {
    "fid": ("FID", "low"),
    "frechet_distance": ("Frechet distance", "low"),
    "kid": ("KID", "about 0"),
    "kernel_distance": ("kernel distance", "about 0"),
    "precision": ("precision", "high"),
    "recall": ("recall", "high"),
    "density": ("density", "about 1"),
    "coverage": ("coverage", "high"),
    "label_agreement": ("right labels", "high"),
    "nearest": ("nearest real image", "as real"),
    "copies": ("copies", "as real"),
}


def evaluate(
    run: Run = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The real images: what `fastgan train --data` takes; by default those the run was trained on.",
            metavar="PATH",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="How many images to generate, and to keep aside of the real ones; by default 1000, at most half of "
            "these.",
            parser=whole,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="What images are compared by: random (filters; needs nothing), inception (for FID and KID; `pip "
            "install 'fastgan[fid]'`), or the file of a module by torch.export.save or torch.jit.save.",
            metavar="random|inception|FILE",
        ),
    ] = "random",
    weights: Annotated[
        Path | None,
        typer.Option(help="Of inception, where it cannot be downloaded.", metavar="FILE", show_default=False),
    ] = None,
    all_real: Annotated[
        bool,
        typer.Option(
            "--all-real", help="Compare with all real images, as published values do; none are kept aside then."
        ),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="A run that was evaluated, or its evaluation.json: its values beside, where they are comparable.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    truncation: Truncation = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the values; by default evaluation.json in the run's folder.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say how good a trained generator is, beside what a perfect one would get."""
    if json is not None:
        check_parent(json)
    other = None if compare is None else _read(compare)  # before any work
    gan = load_gan(run)
    from rich.console import Console

    from fastgan.evaluation import evaluate as measured

    console = Console()
    with console.status("evaluating"):
        found = measured(
            gan,
            data,
            samples=samples,
            features=features,
            weights=weights,
            seed=seed,
            truncation=truncation,
            all_real=all_real,
        )
    if other is not None:
        found.check_comparable(other)
    print(_head(found) + ("" if other is None else f"\ncompared  {other.run} (step {other.step}), seed {other.seed}"))
    console.print(_table(found, other))
    if found.real:
        print("real: what a perfect generator would get; measured on the images that were kept aside")
    print("Values of other features, data or numbers of images are not comparable; --compare sees to that.")
    _write(found, json, gan.path)


def _read(path: Path) -> Evaluation:
    from fastgan.evaluation import Evaluation
    from fastgan.training.run_folder import RunFolder

    file = RunFolder(path).evaluation if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"compare is {path}, but there is no {file}; evaluate that run first, by `fastgan evaluate {path}`."
        )
    try:
        return Evaluation.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def _head(found: Evaluation) -> str:
    protocol = found.protocol
    images, features = protocol["images"], protocol["features"]
    aside = f", {images['held_out']:,} kept aside" if images["held_out"] else ""
    no_fid = "" if "fid" in found.generated else "; no value is an FID"
    return (
        f"run       {found.run} (step {found.step}), {images['generated']:,} images, seed {found.seed}\n"
        f"real      {protocol['data']['name']}: {images['reference']:,} images{aside}\n"
        f"features  {features['name']}, {features['numbers']:,} numbers an image{no_fid}"
    )


def _table(found: Evaluation, other: Evaluation | None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    columns = {"generated": found.generated}
    columns |= {} if other is None else {"compared": other.generated}
    columns |= {"real": found.real} if found.real else {}
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("good is", no_wrap=True)
    for name, (title, good) in ROWS.items():
        if name in found.generated:
            table.add_row(title, *(_shown(values, name) for values in columns.values()), good)
    return table


def _shown(values: dict[str, float], name: str) -> str:
    if name not in values:
        return "-"
    deviation = values.get(f"{name}_deviation")
    return f"{values[name]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _write(found: Evaluation, json: Path | None, run: Path) -> None:
    """The values; where they go into the run's folder, beside a picture of the images that are most like real ones."""
    from fastgan.images import image_grid, save_image
    from fastgan.training.run_folder import RunFolder, write_text

    folder = RunFolder(run)
    if json is None and not folder.is_begun:
        return
    with writing(json or folder.path):
        write_text(json or folder.evaluation, found.to_json())
        print(f"values    {json or folder.evaluation}")
        if json is None:
            save_image(image_grid(found.closest, 8), folder.nearest)
            print(f"pairs     {folder.nearest} (a generated image and the real one most like it; the most alike first)")
