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
# Whole sentences for the list of commands, which would cut those of their own help.
app.command("resume", cls=resume.Resume, short_help="Continue a run exactly from its newest checkpoint.")(resume.resume)
app.command("pack", short_help="Decode and resize images once, for later runs.")(pack.pack)
app.command("generate")(generate.generate)
app.command("interpolate")(interpolate.interpolate)
app.command("evaluate", short_help="Measure how good a trained generator is.")(evaluate.evaluate)
app.command("export", short_help="Write a generator as ONNX, safetensors or torch.export.")(export.export)
app.command("explore", short_help="Walk between generated images in the browser.")(explore.explore)
app.command("bench", short_help="Compare fastgan's speed with torch's.")(bench.bench)
app.command("doctor", short_help="Say what this installation can and cannot do.")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastgan {fastgan.__version__}")
        raise typer.Exit


@app.callback()
def _fastgan(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
