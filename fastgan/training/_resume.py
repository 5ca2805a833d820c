"""What may be another when a run goes on, and what is told of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastgan.data import Stream
from fastgan.errors import FastganWarning, UserError
from fastgan.training.config import TrainConfig, layered
from fastgan.training.run_folder import RunFolder, known_runs

__all__ = ["changed", "check_same", "stored_config", "warn_of_other_data"]

CHANGEABLE = (
    "data",  # which may have moved
    "steps",
    "epochs",
    "lr",
    "lr_g",
    "lr_d",
    "device",
    "precision",
    "workers",
    "cache",
    "sample_every",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "on_nan",
    "deterministic",
)


def stored_config(folder: RunFolder) -> TrainConfig:
    """The configuration of a run. Raises UserError where it cannot be read; the message names the file."""
    try:
        return TrainConfig.from_json(folder.config.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"holds no run that could be read ({error.strerror})"
        if isinstance(error, FileNotFoundError) and folder.path.is_dir():
            problem = f"is a folder, but not of a run (no {folder.config.name})"
        known = ", ".join(map(str, known_runs(trained=False)[:3]))
        raise UserError(
            f"{folder.path} {problem}; give the folder of one, such as {known or 'runs/00000-digits-dcgan-32x32'}."
        ) from None
    except ValueError as error:
        raise UserError(f"{folder.config}: {error}") from None


def changed(stored: TrainConfig, changes: Mapping[str, Any], run: Path) -> TrainConfig:
    """The configuration of a run with the changes, by name, with which it goes on; None is no change.

    Raises:
        UserError: for a setting that is fixed once a run has begun, and another than its own.
    """
    asked = {name: value for name, value in changes.items() if name != "out" and value is not None}
    config = TrainConfig.from_dict(asked)
    check_same(stored, {name: getattr(config, name) for name in asked}, run)
    may = {name: value for name, value in asked.items() if name in CHANGEABLE}
    return TrainConfig(**layered(asdict(stored), may)).resolved()


def check_same(stored: TrainConfig, asked: Mapping[str, Any], run: Path) -> None:
    """Raises UserError where one of ``asked``, by name, is fixed once a run has begun, and another than its own."""
    for name, value in asked.items():
        own = getattr(stored, name)
        same = value is None or value == own or (name == "channels" and value == "auto") or value == (own, own)
        if not same and name not in CHANGEABLE and name not in ("out", "preset"):
            raise UserError(
                f"{name} of the run {run} is {own!r} and stays so while it goes on, but {value!r} is asked for; leave "
                f"it out, or begin a new run by another out (what may change: {', '.join(CHANGEABLE)})."
            )


def warn_of_other_data(before: Any, stream: Stream) -> None:
    """Warns where a run that has seen ``before``, [name, number of images], goes on with another stream."""
    if not stream.resumable:
        warnings.warn(
            f"the order of {stream.name} is its own, so that it begins anew where the run is resumed; give an ImageSet "
            "or a Dataset for an exact resume.",
            FastganWarning,
            stacklevel=3,
        )
    elif before != [stream.name, stream.n]:
        warnings.warn(
            f"the run was trained on {before[0]} ({before[1]} images) and goes on with {stream.name} ({stream.n} "
            "images); the resume is exact only if these are the same images.",
            FastganWarning,
            stacklevel=3,
        )
