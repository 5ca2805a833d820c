"""``fastgan export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastgan.cli.loading import Run, load_gan
from fastgan.cli.output import check_file, writing
from fastgan.cli.values import place

__all__ = ["export"]


def export(
    run: Run = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx, safetensors or torch-export; by default that of --out's suffix, or onnx.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in float16; of safetensors only.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            help="The file to write; by default generator.onnx, .safetensors or .pt2.",
            parser=place,
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a trained generator for other programs, checked against this one."""
    from fastgan.export import SUFFIXES, check_format, format_of
    from fastgan.export import export as write

    format = format_of(out, format) if out is not None else format or "onnx"
    check_format(format)
    path = Path(out or f"generator{SUFFIXES[format]}")
    check_file(path)
    gan = load_gan(run, "cpu")
    with writing(path):
        difference = write(gan, path, format, half=half)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.2f} MiB by {gan.path} (step {gan.step}), equal to its generator to {difference:.1e}")
