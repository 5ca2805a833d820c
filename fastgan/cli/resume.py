"""``fastgan resume``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
)

__all__ = ["resume"]


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
