"""``fastgan resume``"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fastgan.cli.starting import without_garbage_collection
from fastgan.cli.train import (
    Cache,
    CheckpointEvery,
    Deterministic,
    Device,
    Epochs,
    KeepCheckpoints,
    Lr,
    LrD,
    LrG,
    OnNan,
    Precision,
    SampleEvery,
    Steps,
    TensorBoard,
    Workers,
    report,
    train,
)
from fastgan.errors import UserError

__all__ = ["Resume", "resume"]


class Resume(TyperCommand):
    """Where an option is asked for that is of ``train`` alone, says that a run keeps it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None) or ""
            setting = option.removeprefix("--").removeprefix("no-").replace("-", "_")
            if setting not in FIXED:
                raise
            raise UserError(
                f"{setting} of a run is fixed when it is begun; leave {option} out, or begin a new one by `fastgan "
                "train`."
            ) from None


def resume(
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder; by default the one under runs/ that was begun last.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the images are now, if elsewhere.", metavar="PATH", show_default=False)
    ] = None,
    steps: Steps = None,
    epochs: Epochs = None,
    lr: Lr = None,
    lr_g: LrG = None,
    lr_d: LrD = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    cache: Cache = None,
    sample_every: SampleEvery = None,
    checkpoint_every: CheckpointEvery = None,
    keep_checkpoints: KeepCheckpoints = None,
    tensorboard: TensorBoard = None,
    on_nan: OnNan = None,
    deterministic: Deterministic = None,
) -> None:
    """Continue a run from its newest checkpoint, exactly; with more steps, also a run that has ended.

    Flags are settings that are to be others from now on.
    """
    changes = {name: value for name, value in locals().items() if value is not None}
    with without_garbage_collection():
        from fastgan.training import Trainer

        trainer = Trainer.resume(**changes)
    report(trainer, trainer.train())


FIXED = {*signature(train).parameters} - {*signature(resume).parameters, "resume", "config", "dry_run"}
