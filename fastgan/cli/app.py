"""The commands by name."""

from __future__ import annotations

import typer

import fastgan
from fastgan.cli import bench, doctor, evaluate, explore, export, generate, interpolate, pack, resume, train

__all__ = ["app"]

app = typer.Typer(
    help="GANs of convolutional networks, trained faster.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=train.Train, context_settings={"allow_extra_args": True})(train.train)
app.command("resume", cls=resume.Resume)(resume.resume)
app.command("pack")(pack.pack)
app.command("generate")(generate.generate)
app.command("interpolate")(interpolate.interpolate)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("explore")(explore.explore)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastgan {fastgan.__version__}")
        raise typer.Exit


@app.callback()
def _fastgan(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
