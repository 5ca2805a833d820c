"""From a configuration to a trained generator in a run folder."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan import _native, models
from fastgan import data as data_room
from fastgan.errors import UserError
from fastgan.images import image_grid, save_image
from fastgan.training._device import choose_device, choose_precision
from fastgan.training.checkpoint import TrainState, save_checkpoint, write_tensors
from fastgan.training.config import TrainConfig
from fastgan.training.ema import EMA
from fastgan.training.interrupt import Interrupt
from fastgan.training.metrics_log import MetricsLog
from fastgan.training.progress import Progress, Reading, progress_on
from fastgan.training.run_folder import RUNS, RunFolder, check_free, next_name, write_text
from fastgan.training.samples import draw_latents, generate
from fastgan.training.step import AdversarialStep

__all__ = ["TrainResult", "Trainer"]

SAMPLES = 64  # images of a grid
WEIGHTS, TRAINING = 0, 1  # what the global random generators are seeded for


@dataclass(frozen=True)
class TrainResult:
    """What :meth:`Trainer.train` leaves; as a path it is the run's folder."""

    folder: Path
    """The run."""
    step: int
    """Updates done."""
    stopped_by: str
    """What ended the run early, such as "Ctrl-C"; empty where it is complete."""
    metrics: dict[str, Any]
    """The last row of ``metrics.jsonl``."""

    def __fspath__(self) -> str:
        return str(self.folder)


class Trainer:
    """Trains a generator and a discriminator.

    Args:
        config: the options; by default those of the embedded digits.
        generator, discriminator: your own networks instead of those that ``config.model`` names. They are moved to the
            device, and their weights to channels_last, in place.
        data: your own data instead of ``config.data``: an ImageSet, a tensor, a Dataset or a DataLoader, see
            :func:`fastgan.data.stream_of`.
        latent: the shape of one latent, where your generator does not tell it (see :class:`AdversarialStep`).

    Python's, NumPy's and torch's global random generators are seeded with ``config.seed``.

    Raises:
        UserError: for options that do not fit each other, the data, the networks or this machine. Nothing has been
            written then.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        data: Any = None,
        *,
        latent: int | Sequence[int] | None = None,
    ) -> None:
        config = config or TrainConfig()
        if isinstance(data, (str, os.PathLike)):
            config, data = replace(config, data=data if isinstance(data, str) else os.path.abspath(data)), None
        given = config
        config = config.resolved(preset=None if data is None else "images")
        self.device = choose_device(config.device)
        self.precision, self.precision_reason = choose_precision(config.precision, self.device)
        if config.out is not None:
            check_free(Path(config.out))
        if generator is None or discriminator is None:
            models.check(config.model, config.image_size)  # before the data is read
        self.stream = _open(config, data)
        if data is not None:
            _check_fits(given, self.stream)
            config = replace(config, data=self.stream.name)
        self.config = _fitted(config, self.stream)
        self.total_steps = _total_steps(self.config, self.stream)

        seed_everything(self.config.seed, WEIGHTS)
        generator, discriminator = _networks(self.config, generator, discriminator)
        for module in (generator, discriminator):
            module.to(self.device, memory_format=torch.channels_last)
        self.state = TrainState(
            generator,
            discriminator,
            EMA(generator, self.config.ema_decay),
            _adam(generator, self.config.lr_g, self.config.beta1),
            _adam(discriminator, self.config.lr_d, self.config.beta1),
            facts={"config": self.config.to_dict()},
        )
        self.step = AdversarialStep(
            generator,
            discriminator,
            self.state.opt_g,
            self.state.opt_d,
            loss=self.config.loss,
            latent=latent,
            precision=self.precision,
            label_smoothing=self.config.label_smoothing,
        )
        self.latent_shape = tuple(self.step.draw_latents(1).shape[1:])
        self._noise = draw_latents(SAMPLES, self.latent_shape, self.config.seed)
        self._check_image()

    def train(self) -> TrainResult:
        """Trains to the end, or until Ctrl-C or SIGTERM, which end the run after the current step with a checkpoint.

        Raises:
            UserError: where the run folder exists and is not empty, or cannot be written.
        """
        _native.keep_heap()
        config = self.config
        folder = RunFolder.create(
            config.out or RUNS / next_name(self.stream.name, self._family(), self.stream.image_size)
        )
        with _writing(folder):
            write_text(folder.config, config.to_json())
            log = MetricsLog(folder.metrics)
        for module in (self.state.generator, self.state.discriminator):
            module.train()
        if self.state.step == 0:
            seed_everything(config.seed, TRAINING)
        print(self.describe(), f"run       {folder.path}", sep="\n", flush=True)
        progress = progress_on(self.total_steps, self.state.step)
        try:
            with Interrupt() as interrupt:
                last = self._loop(folder, log, progress, interrupt)
        finally:
            progress.close()
            log.close()
        return TrainResult(
            folder.path, self.state.step, interrupt.name if self.state.step < self.total_steps else "", last
        )

    def describe(self) -> str:
        """The data, the networks, the device and the length, for people to read."""
        height, width = self.stream.image_size
        sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (self.state.generator, self.state.discriminator)]
        count = "an unknown number of" if self.stream.n is None else f"{self.stream.n:,}"
        return (
            f"data      {self.stream.name}: {count} images, {height}x{width}, channels={self.stream.channels}\n"
            f"networks  {self._family()}: generator {sizes[0]:.2f} M parameters, discriminator {sizes[1]:.2f} M\n"
            f"device    {self.device}, precision {self.precision} ({self.precision_reason})\n"
            f"length    {self.total_steps:,} steps of {self.stream.batch_size or '?'} images"
        )

    def _loop(self, folder: RunFolder, log: MetricsLog, progress: Progress, interrupt: Interrupt) -> dict[str, Any]:
        state, last = self.state, {}
        done = state.step >= self.total_steps
        while not done:
            real = self.stream.batch(state.step, device=self.device, dtype=torch.float32)
            if state.step == 0:
                self._save_first_pictures(folder, real)
                log.restart_clock()
            metrics = self.step(real)
            self.state.ema.update(state.generator)
            state.step += 1
            state.images += len(real)
            epoch = None if self.stream.n is None else round(state.images / self.stream.n, 4)
            row = log.add(state.step, epoch, len(real), metrics)

            done = state.step >= self.total_steps or bool(interrupt)  # asked once: what is done has a checkpoint
            sample = done or _is_due(state.step, self.config.sample_every)
            checkpoint = done or _is_due(state.step, self.config.checkpoint_every)
            if sample or checkpoint:
                row = log.flush() or row
                with _writing(folder):
                    if sample:
                        self._save_samples(folder)
                    if checkpoint:
                        self._save_checkpoint(folder)
                log.restart_clock()
            if row is not None:
                last = row
                progress.update(row)
        return last

    def _save_first_pictures(self, folder: RunFolder, real: Tensor) -> None:
        step = 0
        while self.stream.resumable and len(real) < SAMPLES:  # other streams give each batch once
            step += 1
            real = torch.cat([real, self.stream.batch(step, device=self.device)])
        with _writing(folder):
            save_image(image_grid(real[:SAMPLES]), folder.samples / "real.png")
            self._save_samples(folder)

    def _save_samples(self, folder: RunFolder) -> None:
        save_image(image_grid(generate(self.state.ema.module, self._noise)), folder.sample(self.state.step))

    def _save_checkpoint(self, folder: RunFolder) -> None:
        """The checkpoint, then the generator on its own; the oldest checkpoints beyond ``keep_checkpoints`` go."""
        save_checkpoint(folder.checkpoint(self.state.step), self.state)
        write_tensors(folder.generator, self.state.ema.module.state_dict(), self._described())
        for old in folder.all_checkpoints()[: -self.config.keep_checkpoints]:
            old.unlink()

    def _described(self) -> dict[str, Any]:
        """What :func:`fastgan.load` needs to build the networks again and to use them."""
        return {
            "kind": "generator",
            "generator": models.arguments_of(self.state.generator),
            "discriminator": models.arguments_of(self.state.discriminator),
            "class": type(self.state.generator).__name__,
            "from_logits": self.step.from_logits,
            "latent_shape": self.latent_shape,
            "image_size": self.stream.image_size,
            "channels": self.stream.channels,
            "data": self.stream.name,
            "step": self.state.step,
        }

    def _family(self) -> str:
        generator = self.state.generator
        return getattr(generator, "family", type(generator).__name__)

    def _check_image(self) -> None:
        made = tuple(generate(self.state.ema.module, self._noise[:1]).shape[1:])
        wanted = (self.stream.channels, *self.stream.image_size)
        if made != wanted:
            raise UserError(
                f"the generator makes images {list(made)} (channels, height, width), but {self.stream.name} has "
                f"{list(wanted)}; change image_size and channels, or the generator."
            )


def seed_everything(seed: int, purpose: int) -> None:
    """Seeds the global random generators of Python, NumPy and torch, on every device, differently for each purpose."""
    mixed = int(np.random.SeedSequence((seed, purpose)).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


def _open(config: TrainConfig, data: Any) -> data_room.Stream:
    if data is None:
        data = data_room.load(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            resize=config.resize,
            workers=None if config.workers == "auto" else config.workers,
            progress=Reading(),
        )
    return data_room.stream_of(data, config.batch_size, config.seed, mirror=config.mirror)


def _fitted(config: TrainConfig, stream: data_room.Stream) -> TrainConfig:
    """The configuration with the size and channels that the data has."""
    height, width = stream.image_size
    return replace(config, image_size=height if height == width else (height, width), channels=stream.channels)


def _check_fits(given: TrainConfig, stream: data_room.Stream) -> None:
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


def _total_steps(config: TrainConfig, stream: data_room.Stream) -> int:
    if config.epochs is None:
        return config.steps
    if stream.n is None or stream.batch_size is None:
        raise UserError(
            f"epochs is {config.epochs}, but nobody knows how many images {stream.name} has; give steps instead."
        )
    return data_room.BatchStream(stream.n, stream.batch_size).steps_for(config.epochs)


def _networks(
    config: TrainConfig, generator: nn.Module | None, discriminator: nn.Module | None
) -> tuple[nn.Module, nn.Module]:
    if generator is None or discriminator is None:
        options = {name: getattr(config, name) for name in ("image_size", "channels", "latent_dim", "width")}
        built = models.build(config.model, **options)
        generator, discriminator = generator or built[0], discriminator or built[1]
    return generator, discriminator


def _adam(module: nn.Module, lr: float, beta1: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=lr, betas=(beta1, 0.999), fused=True)


@contextmanager
def _writing(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the run folder {folder.path} cannot be written ({error.strerror or error}); what was written before is "
            "kept, make room or choose another folder."
        ) from None


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
