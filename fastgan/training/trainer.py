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

from fastgan import data as data_room
from fastgan import models
from fastgan.errors import UserError
from fastgan.training._device import choose_device, choose_precision
from fastgan.training.checkpoint import TrainState, save_checkpoint, write_tensors
from fastgan.training.config import TrainConfig
from fastgan.training.ema import EMA
from fastgan.training.interrupt import Interrupt
from fastgan.training.metrics_log import MetricsLog
from fastgan.training.progress import Progress, progress_on
from fastgan.training.run_folder import RUNS, RunFolder, check_free, next_name, write_text
from fastgan.training.samples import draw_latents, generate, grid, save_picture
from fastgan.training.step import AdversarialStep

__all__ = ["TrainResult", "Trainer"]

SAMPLES = 64  # images of a grid
PARTS = 10  # grids and checkpoints a run has by default


@dataclass(frozen=True)
class TrainResult:
    """What :meth:`Trainer.train` leaves."""

    folder: Path
    """The run."""
    step: int
    """Updates done."""
    stopped_by: str
    """What ended the run early, such as "Ctrl-C"; empty where it is complete."""
    metrics: dict[str, Any]
    """The last row of ``metrics.jsonl``."""


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
        UserError: for options that do not fit each other, the data, the networks or this machine. Nothing has been written then.
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
        config = config.resolved(preset=None if data is None else "")
        self.device = choose_device(config.device)
        self.precision, self.precision_reason = choose_precision(config.precision, self.device)
        if config.out is not None:
            check_free(Path(config.out))
        if generator is None or discriminator is None:
            _check_networks(config)
        self.stream = _open(config, data)
        self.config = _fitted(config, self.stream, own_data=data is not None)
        self.total_steps = _total_steps(self.config, self.stream)

        seed_everything(self.config.seed)
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
            real_label=self.config.real_label,
        )
        self.latent_shape = tuple(self.step.draw_latents(1).shape[1:])
        self._noise = draw_latents(SAMPLES, self.latent_shape, self.config.seed)
        self._check_image()

    def train(self) -> TrainResult:
        """Trains to the end, or until Ctrl-C or SIGTERM, which end the run after the current step with a checkpoint.

        Raises:
            UserError: where the run folder exists and is not empty, or cannot be written.
        """
        config = self.config
        folder = RunFolder.create(config.out or RUNS / next_name(self.stream.name, self._family(), self.stream.image_size))
        with _writing(folder):
            write_text(folder.config, config.to_json())
            log = MetricsLog(folder.metrics)
        for module in (self.state.generator, self.state.discriminator):
            module.train()
        print(self.describe(), f"run       {folder.path}", sep="\n", flush=True)
        progress = progress_on(self.total_steps, self.state.step)
        try:
            with Interrupt() as interrupt:
                last = self._loop(folder, log, progress, interrupt)
        finally:
            progress.close()
            log.close()
        return TrainResult(folder.path, self.state.step, interrupt.name if self.state.step < self.total_steps else "", last)

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
        sample_every, checkpoint_every = (
            every or -(-self.total_steps // PARTS) for every in (self.config.sample_every, self.config.checkpoint_every)
        )
        while state.step < self.total_steps and not interrupt:
            real = self.stream.batch(state.step, device=self.device, dtype=torch.float32)
            if state.step == 0:
                self._save_first_pictures(folder, real)
                log.restart_clock()
            metrics = self.step(real)
            self.state.ema.update(state.generator)
            epoch = None if self.stream.n is None else state.images // self.stream.n
            state.step += 1
            state.images += len(real)
            row = log.add(state.step, epoch, len(real), metrics)

            done = state.step == self.total_steps or bool(interrupt)
            sample, checkpoint = (done or state.step % every == 0 for every in (sample_every, checkpoint_every))
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
        with _writing(folder):
            save_picture(grid(real[:SAMPLES].float()), folder.samples / "real.png")
            self._save_samples(folder)

    def _save_samples(self, folder: RunFolder) -> None:
        save_picture(grid(generate(self.state.ema.module, self._noise)), folder.sample(self.state.step))

    def _save_checkpoint(self, folder: RunFolder) -> None:
        """The checkpoint, then the generator on its own; the oldest checkpoints beyond ``keep_checkpoints`` go."""
        save_checkpoint(folder.checkpoint(self.state.step), self.state)
        write_tensors(folder.generator, self.state.ema.module.state_dict(), self._described())
        for old in folder.all_checkpoints()[: -self.config.keep_checkpoints]:
            old.unlink()

    def _described(self) -> dict[str, Any]:
        """What :func:`fastgan.load` needs to build the generator again."""
        generator = self.state.generator
        known = type(generator) in (models.DCGANGenerator,)
        options = ("image_size", "channels", "latent_dim", "width")
        return {
            "kind": "generator",
            "model": {"family": generator.family, **{name: getattr(generator, name) for name in options}} if known else None,
            "class": type(generator).__name__,
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
                f"the generator makes images {list(made)} (channels, height, width), but those of {self.stream.name} are "
                f"{list(wanted)}; change image_size and channels, or the generator."
            )


def seed_everything(seed: int) -> None:
    """Seeds the global random generators of Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _check_networks(config: TrainConfig) -> None:
    """Raises UserError for networks that cannot be built, before the data is read; nothing is allocated."""
    channels = 3 if config.channels == "auto" else int(config.channels)
    with torch.device("meta"):
        models.build(
            config.model,
            image_size=config.image_size,
            channels=channels,
            latent_dim=config.latent_dim,
            width=config.width,
        )


def _open(config: TrainConfig, data: Any) -> data_room.Stream:
    if data is None:
        data = data_room.load(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            resize=config.resize,
            workers=config.workers,
        )
    return data_room.stream_of(data, config.batch_size, config.seed, mirror=config.mirror)


def _fitted(config: TrainConfig, stream: data_room.Stream, own_data: bool) -> TrainConfig:
    """The configuration with the size and channels that the data has."""
    height, width = stream.image_size
    size = height if height == width else (height, width)
    if own_data:
        config = replace(config, data=stream.name)
    return replace(config, image_size=size, channels=stream.channels)


def _total_steps(config: TrainConfig, stream: data_room.Stream) -> int:
    if config.epochs is None:
        return config.steps
    if stream.n is None or stream.batch_size is None:
        raise UserError(f"epochs is {config.epochs}, but nobody knows how many images {stream.name} has; give steps instead.")
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
            f"the run folder {folder.path} cannot be written ({error.strerror or error}); what was written before is kept, "
            "make room or choose another folder."
        ) from None

    def _one_step(self, step: int, log: MetricsLog) -> None:
        real = self._batch(step)
        results = self.step(real)
        self.ema.update()
        self._images_seen += len(real)
        epoch = None if self.stream.n is None else round(self._images_seen / self.stream.n, 4)
        log.add(step, epoch, len(real), results)
        if log.due() or step == self.steps:
            self.display.update(log.flush())
        if _is_due(step, self.config.sample_every):
            self._save_samples(step)
        if _is_due(step, self.config.checkpoint_every):
            log.flush()
            self._save_checkpoint(step)

    def _batch(self, step: int) -> Tensor:
        """The real images of a step (from 1)."""
        if step == 1 and self._first is not None:  # already taken, for the grid of real images
            real, self._first = self._first, None
            return real
        return self.stream.batch(step - 1, device=self.device, dtype=self.dtype)

    def _planned_steps(self) -> int:
        config, stream = self.config, self.stream
        if config.steps is not None:
            return config.steps
        if stream.n is None or stream.batch_size is None:
            raise UserError("epochs cannot be counted over data that does not tell its length; give steps instead.")
        return data_module.BatchStream(stream.n, stream.batch_size).steps_for(config.epochs)

    def _adam(self, network: nn.Module, lr: float | None) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), lr or self.config.lr, (self.config.beta1, 0.999), fused=self.device.type in ("cpu", "cuda")
        )

    def _new_run(self) -> RunFolder:
        size = "{}x{}".format(*self.stream.image_size)
        run = RunFolder.create(self.config.out, f"{self.stream.name}-{self.config.model}-{size}")
        write_whole(run.config, self.config.to_json().encode())
        return run

    def _announce(self) -> None:
        height, width = self.stream.image_size
        images = "images" if self.stream.n is None else f"{self.stream.n:,} images"
        sizes = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (self.generator, self.discriminator)]
        self.display.note(
            f"{self.stream.name}: {images}, {height}x{width}, {self.stream.channels} channel(s); {self.config.model}: "
            f"generator {sizes[0]:.2f} M, discriminator {sizes[1]:.2f} M parameters"
        )
        self.display.note(f"{self.steps:,} steps on {self.device} in {self.precision}; writing to {self.run.path}")

    def _save_real(self) -> None:
        self._first = self._batch(1)
        real = [self._first]
        while self.stream.resumable and sum(map(len, real)) < SAMPLES:  # others give each batch once
            real.append(self._batch(len(real) + 1))
        write_whole(self.run.samples / "real.png", grid_png(torch.cat(real)[:SAMPLES].float()))

    @torch.no_grad()
    def _save_samples(self, step: int) -> None:
        images = torch.cat([self.ema.network(part) for part in self.fixed_latent.split(self.config.batch_size)])
        write_whole(self.run.sample(step), grid_png(images.float()))

    def _save_checkpoint(self, step: int) -> None:
        save_checkpoint(self.run.checkpoint(step), self.networks, self.optimizers, self._about(step))

    def _save_last(self, step: int) -> None:
        self._save_samples(step)
        self._save_checkpoint(step)
        save_tensors(self.run.generator, self.ema.network.state_dict(), self._about(step))

    def _about(self, step: int) -> dict[str, Any]:
        arguments = None if self._own_networks else models.arguments_of(self.generator)
        return {
            "step": step,
            "images_seen": self._images_seen,
            "ema_updates": self.ema.updates,
            "config": self.config.to_dict(),
            "model": arguments,
        }

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By the names they have in a checkpoint."""
        return {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema.network}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the names they have in a checkpoint."""
        return {"opt_g": self.opt_g, "opt_d": self.opt_d}


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _images(config: TrainConfig) -> data_module.ImageSet:
    return data_module.load(
        config.data,
        image_size=config.image_size,
        channels=config.channels,
        resize=config.resize,
        workers=None if config.workers == "auto" else config.workers,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); give auto or cpu.") from None
    return device


def _precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32": for "auto", bf16 where the hardware multiplies it."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if has_bf16 else "fp32"
