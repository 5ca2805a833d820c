"""``fastgan evaluate``"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgan.cli.generate import Seed, Truncation
from fastgan.cli.loading import Run, load_gan
from fastgan.cli.output import check_file
from fastgan.cli.program import command
from fastgan.cli.values import place, whole
from fastgan.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from fastgan.evaluation import Evaluation
    from fastgan.training.run_folder import RunFolder

__all__ = ["evaluate"]

WIDE = 1000
PROBE = 1 << 16  # bytes, more than an evaluation takes
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
            help="How many images to generate, and to keep aside of the real ones; at least 32 and at most half "
            "of these; by default 1000.",
            parser=whole(1000),
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
        str | None,
        typer.Option(
            help="Where to write the values; by default evaluation.json in the run's folder.",
            parser=place,
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say how good a trained generator is, beside what a perfect one would get."""
    given = None if json is None else Path(json)
    if given is not None:
        check_file(given, "json")
    other = None if compare is None else _read(compare)  # before any work
    gan = load_gan(run)
    from rich.console import Console

    from fastgan.evaluation import evaluate as measured
    from fastgan.training.run_folder import RunFolder

    folder = RunFolder(gan.path)
    file = given if given is not None or not folder.is_begun else folder.evaluation
    if file is not None:
        with _writing(file), tempfile.TemporaryFile(dir=file.absolute().parent) as probe:
            probe.write(bytes(PROBE))  # rather than find out after the work
            probe.flush()

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
    failure = None
    try:
        written = _write(found, file, folder if given is None else None)  # whoever reads what is printed may stop
    except UserError as error:  # told below what was found
        failure, written = error, []
    print(_head(found) + ("" if other is None else f"\ncompared  {other.run} (step {other.step}), seed {other.seed}"))
    wide = Console(width=WIDE)  # in a pipe, and in a narrow terminal, rich would cut the columns
    with wide.capture() as table:  # of itself rich would answer a closed pipe with an exit status of 1
        wide.print(_table(found, other))
    print(table.get(), end="")
    if found.real:
        print("real: what a perfect generator would get; measured on the images that were kept aside")
    print("Values of other features, data or numbers of images are not comparable; --compare sees to that.")
    print("\n".join(written), end="\n" if written else "")
    if failure is not None:
        raise failure


def _read(path: Path) -> Evaluation:
    from fastgan.evaluation import Evaluation
    from fastgan.generation import DIGITS
    from fastgan.training.run_folder import RunFolder

    if str(path) == DIGITS and not path.exists():
        file = f"{DIGITS}.json"
        raise UserError(
            f"compare is {path}, the generator that comes with fastgan, whose values are kept nowhere; write them by "
            f"`{command('evaluate', DIGITS, '--json', file)}`, and give {file}."
        )
    if not path.exists():
        raise UserError(
            f"compare is {path}, but there is no run or file {path}; give a run that was evaluated, or its "
            "evaluation.json."
        )
    file = RunFolder(path).evaluation if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"compare is {path}, but there is no {file}; evaluate that run first, by `{command('evaluate', path)}`."
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


def _write(found: Evaluation, place: Path | None, folder: RunFolder | None) -> list[str]:
    """Writes the values and, where they go into a run's folder, a picture of the images that are most like real ones.

    Returns:
        What to say of it.
    """
    from fastgan.images import image_grid, save_image
    from fastgan.training.run_folder import write_text

    if place is None:
        return ["values    not written; give --json FILE"]
    lines = [f"values    {place}"]
    with _writing(place):
        write_text(place, found.to_json())
        if folder is not None:
            save_image(image_grid(found.closest, 8), folder.nearest)
            lines.append(
                f"pairs     {folder.nearest} (a generated image and the real one most like it; the most alike first)"
            )
    return lines


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turns an OSError inside into a sentence about where the values are written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the values cannot be written into {place.parent} ({error.strerror or error}); give another place by "
            "--json FILE."
        ) from None
