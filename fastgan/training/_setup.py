"""The parts of a run, made as a configuration says."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fastgan import data as data_room
from fastgan import models
from fastgan.errors import UserError, counted
from fastgan.training.config import TrainConfig
from fastgan.training.presets import DATA_SETS
from fastgan.training.progress import Reading
from fastgan.training.task import PAIRS, TASKS, Classes, Latents, Sources, Task

__all__ = [
    "adam",
    "check_fits",
    "check_model",
    "check_task",
    "deterministic",
    "fitted",
    "lasting",
    "memory_named",
    "networks",
    "open_data",
    "seed_everything",
    "task_of",
    "total_steps",
]


def seed_everything(seed: int, purpose: int) -> None:
    """Seeds the global random generators of Python, NumPy and torch, on every device, differently for each purpose."""
    mixed = int(np.random.SeedSequence((seed, purpose)).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, where wanted, torch uses deterministic algorithms only."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for; read when cuBLAS first runs
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


@contextmanager
def memory_named(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Inside, running out of memory becomes a UserError that names what takes it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # For a CPU's memory torch has no class of its own.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"the training does not fit into the memory of the {device.type} with batch_size {config.batch_size}, "
            f"width {config.width}, latent_dim {config.latent_dim} and image_size {config.image_size}; make one of "
            "them smaller."
        ) from None


def open_data(config: TrainConfig, data: Any, device: torch.device) -> data_room.Stream:
    """The stream of the caller's own data, or of what the configuration names.

    Raises:
        UserError: where it cannot be read, or has fewer images than a batch.
    """
    if data is None:
        data = data_room.load(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            resize=config.resize,
            workers=_workers(config),
            progress=Reading(),
        )
    n = len(data) if hasattr(data, "__len__") and not isinstance(data, DataLoader) else config.batch_size
    if 0 < n < config.batch_size:
        name = getattr(data, "name", None) or type(data).__name__.lower()  # a tensor's name is None
        raise UserError(
            f"batch_size is {config.batch_size}, but {name} has {counted(n, 'image')}; give a batch_size of at most "
            f"{n}, or more images."
        )
    return _stream(data, config, device)


def fitted(config: TrainConfig, stream: data_room.Stream, *, own_data: bool) -> TrainConfig:
    """The configuration as the run keeps it: with the size and channels that the data has, and where this lies."""
    height, width = stream.image_size
    size = height if height == width else (height, width)
    data = stream.name if own_data else lasting(config.data)
    source = None if config.source is None else lasting(config.source)
    return replace(config, data=data, source=source, image_size=size, channels=stream.channels)


def lasting(data: str) -> str:
    """The absolute path of a file or folder, so that a run can be resumed from elsewhere; any other word as it is."""
    path = os.path.abspath(os.path.expanduser(data))
    return path if data not in DATA_SETS and os.path.exists(path) else data


def check_fits(given: TrainConfig, stream: data_room.Stream) -> None:
    """Raises UserError where the caller's own data has another size or other channels than asked for."""
    height, width = stream.image_size
    for name, asked, found in (
        ("image_size", given.image_size, ((height, width), height if height == width else None)),
        ("channels", given.channels, (stream.channels, "auto")),
    ):
        if asked is not None and asked not in found:
            raise UserError(
                f"{name} is {asked}, but {stream.name} has {found[0]}; leave it out, or give data that is so."
            )


def total_steps(config: TrainConfig, stream: data_room.Stream) -> int:
    """``config.steps``, or the steps of ``config.epochs``. Raises UserError where the data has no known length."""
    if config.epochs is None:
        return config.steps
    if stream.n is None or stream.batch_size is None:
        raise UserError(
            f"epochs is {config.epochs}, but nobody knows how many images {stream.name} has; give steps instead."
        )
    return data_room.BatchStream(stream.n, stream.batch_size * config.d_steps).steps_for(config.epochs)


def check_model(config: TrainConfig) -> None:
    """Raises UserError where ``config.model`` is not for ``config.task``."""
    of_images = config.model == "encoder_decoder"
    if of_images and config.task is None:
        raise UserError(
            f"model encoder_decoder makes images of images, but task is not given; give one of {', '.join(TASKS)}."
        )
    if config.task is not None and not of_images:
        raise UserError(
            f"task {config.task} makes images of images, but model is {config.model!r}; give encoder_decoder as model, "
            "or networks of your own."
        )


def check_task(config: TrainConfig) -> None:
    """Raises UserError where settings are not for ``config.task``, or ``config.source`` is not there."""
    if config.conditional and config.task is not None:
        raise UserError(f"conditional and task {config.task} are both given; give one of them.")
    if config.l1_weight and config.task is None:
        raise UserError(
            f"l1_weight is {config.l1_weight:g}, but task is not given, and without one no real image is what a "
            "generated one should be; give model encoder_decoder and a task, or leave l1_weight out."
        )
    if config.source is None and config.task == PAIRS:
        raise UserError(
            "task is pairs, but source is not given; give the folder of the images that those of data are to be made "
            "of."
        )
    if config.source is None:
        return
    if config.task != PAIRS:
        task = "not given" if config.task is None else config.task
        raise UserError(
            f"source is {config.source!r}, but task is {task}; give model encoder_decoder and task pairs, or leave "
            "source out."
        )
    if not os.path.exists(os.path.expanduser(config.source)):
        raise UserError(f"source {config.source} does not exist; give the folder of the source images.")


def task_of(config: TrainConfig, stream: data_room.Stream, device: torch.device) -> Task:
    """What the networks are given.

    Raises:
        UserError: where the images do not suit.
    """
    if config.conditional:
        return Classes(stream, device, config.seed)
    if config.task is None:
        return Latents(stream, device, config.seed)
    return Sources(stream, device, config.seed, config.task, _sources(config, stream, device))


def _sources(config: TrainConfig, stream: data_room.Stream, device: torch.device) -> data_room.Stream | None:
    if config.task != PAIRS:
        return None
    data_room.check_pairs(config.data, config.source)
    images = data_room.load(
        config.source, image_size=stream.image_size, resize=config.resize, workers=_workers(config), progress=Reading()
    )
    skipped = [file for half in (images, stream.images) for file, _ in half.skipped]
    if skipped:
        raise UserError(
            f"{len(skipped)} images of the pairs cannot be read ({', '.join(skipped[:3])}); mend them, or "
            "remove them from both folders."
        )
    return _stream(images, config, device)


def _stream(images: Any, config: TrainConfig, device: torch.device) -> data_room.Stream:
    options = {"mirror": config.mirror, "cache": config.cache, "device": device}
    return data_room.stream_of(images, config.batch_size, config.seed, **options)


def _workers(config: TrainConfig) -> int | None:
    return None if config.workers == "auto" else config.workers


def networks(
    config: TrainConfig, task: Task, generator: nn.Module | None, discriminator: nn.Module | None
) -> tuple[nn.Module, nn.Module]:
    """The given ones, the missing ones built as the configuration and the task say."""
    if generator is None or discriminator is None:
        names = ("image_size", "channels", "latent_dim", "width", "spectral_norm", "head", "pooling", "skips")
        options = {name: value for name in names if (value := getattr(config, name)) is not None} | task.options
        built = models.build(config.model, **options)
        generator, discriminator = generator or built[0], discriminator or built[1]
    return generator, discriminator


def adam(module: nn.Module, lr: float, beta1: float) -> torch.optim.Adam:
    """Adam in one kernel for all parameters."""
    return torch.optim.Adam(module.parameters(), lr=lr, betas=(beta1, 0.999), fused=True)
