"""From a configuration to a trained generator in a run folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan import _native, models
from fastgan.data import DataNotFound
from fastgan.errors import FastganWarning, TrainingDiverged, UserError, counted
from fastgan.training import _resume, _setup
from fastgan.training._device import choose_device, choose_precision
from fastgan.training._setup import seed_everything
from fastgan.training.checkpoint import NotFinite, TrainState
from fastgan.training.config import TrainConfig
from fastgan.training.ema import EMA
from fastgan.training.faults import Alarm
from fastgan.training.interrupt import Interrupt
from fastgan.training.progress import progress_on
from fastgan.training.run_folder import RUNS, RunFolder, check_free, newest_run, next_name
from fastgan.training.run_log import RunLog
from fastgan.training.samples import generate
from fastgan.training.saver import Saver
from fastgan.training.step import AdversarialStep
from fastgan.training.task import numbered
from fastgan.training.tensorboard_log import wants_tensorboard

__all__ = ["TrainResult", "Trainer"]

# What the configuration and the step call by one name.
STEP_OPTIONS = (
    "loss",
    "label_smoothing",
    "d_steps",
    "accumulate",
    "penalty_weight",
    "r1_gamma",
    "r1_every",
    "l1_weight",
)
WEIGHTS, TRAINING = 0, 1  # what the global random generators are seeded for; beyond: the training after a rollback
ROLLBACKS = 3


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
    alarms: tuple[Alarm, ...] = ()
    """What was wrong at the end."""

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
        wants_tensorboard(config.tensorboard)
        if config.out is not None and not RunFolder(config.out).is_begun:
            check_free(Path(config.out))  # of one that is begun, train() is told whether to resume it
        if generator is None or discriminator is None:
            models.check(config.model, config.image_size)  # before the data is read
            _setup.check_model(config)
        _setup.check_task(config)
        self.stream = _setup.open_data(config, data, self.device)
        if data is not None:
            _setup.check_fits(given, self.stream)
        self.config = _setup.fitted(config, self.stream, own_data=data is not None)
        self.total_steps = _setup.total_steps(self.config, self.stream)
        self.task = _setup.task_of(self.config, self.stream, self.device)
        self._latent, self._resuming = latent, False
        seed_everything(self.config.seed, WEIGHTS)
        # What is asked of cuBLAS counts from its first call on, and the networks are called here.
        with _setup.memory_named(self.config, self.device), _setup.deterministic(self.config.deterministic):
            self.state = self._make_state(*_setup.networks(self.config, self.task, generator, discriminator))
            self.step = self._make_step()
            of_images = self.config.task is not None
            self.latent_shape = None if of_images else tuple(self.step.draw_latents(1).shape[1:])
            """Of one latent; None where images are made of images."""
            self._samples = self.task.samples(self.latent_shape)
            self._check_image()

    @classmethod
    def resume(
        cls,
        run: str | os.PathLike[str] | None = None,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        data: Any = None,
        *,
        latent: int | Sequence[int] | None = None,
        **changes: Any,
    ) -> Trainer:
        """The trainer of a run that was begun before; its :meth:`train` goes on from the newest checkpoint.

        Args:
            run: its folder; by default the run under ``runs/`` that was begun last.
            generator, discriminator, data, latent: your own, where the run was begun with such.
            changes: settings of :class:`TrainConfig` that are to be others from now on, such as ``steps``.

        Raises:
            UserError: where there is no such run or its data is gone, and for a change to a setting that is fixed
                once a run has begun.
        """
        folder = RunFolder(newest_run(trained=False) if run is None else run)
        config = _resume.changed(_resume.stored_config(folder), changes, folder.path)
        with folder.in_use():  # rather than after the data is read
            pass
        try:
            trainer = cls(replace(config, out=str(folder.path)), generator, discriminator, data, latent=latent)
        except DataNotFound:
            problem = "holds no images any more" if os.path.exists(config.data) else "does not exist"
            raise UserError(
                f"the run {folder.path} was trained on {config.data}, which {problem}; say where it is now by --data "
                "(in Python: data)."
            ) from None
        trainer._resuming = True
        return trainer

    def train(self, *, resume: bool = False) -> TrainResult:
        """Trains to the end, or until Ctrl-C, SIGTERM, SIGHUP or a closed pipe of stdout, which end the run after the
        current step with a checkpoint.

        Args:
            resume: go on with the run in ``config.out``, if there is one, from its newest checkpoint.

        Raises:
            UserError: where the run folder is not empty and not to be resumed, is in use, or cannot be written; where
                the run in it has other settings, more steps than asked for, or has lost its checkpoints; where the
                memory does not suffice. What was written before is kept.
            TrainingDiverged: where a loss or a weight is no finite number, and ``config.on_nan`` does not help.
        """
        _native.keep_heap()
        folder, resume = self._folder(resume or self._resuming)
        for module in (self.state.generator, self.state.discriminator):
            module.train()
        saver = Saver(folder, self.config, self.task, self.state, self._samples, self.latent_shape)
        with folder.in_use(), _setup.deterministic(self.config.deterministic):
            if self.state.step == 0:
                seed_everything(self.config.seed, TRAINING)
            if resume:
                self._restore(saver)
            if self.state.step > self.total_steps:
                raise UserError(
                    f"the run {folder.path} has {self.state.step:,} steps already, but is to end after "
                    f"{self.total_steps:,}; give --steps above {self.state.step} (in Python: steps)."
                )
            with folder.writing():
                folder.prepare(replace(self.config, out=None).to_json(), self.state.step)
                progress = progress_on(self.total_steps, self.state.step)
                log = RunLog(folder, self.config, self.state.generator, self._samples, progress, self.state.step)
            return self._run(saver, log)

    def _run(self, saver: Saver, log: RunLog) -> TrainResult:
        folder = saver.folder
        begun = f", resumed after step {self.state.step:,}" if self.state.step else ""
        if self.state.step >= self.total_steps:
            begun = f", which has all its {self.state.step:,} steps; give more of them to train on"
        try:
            with Interrupt() as interrupt, _setup.memory_named(self.config, self.device):
                with suppress(BrokenPipeError):  # the reader is gone, of which Interrupt is told by a signal
                    print(self.describe(), f"run       {folder.path}{begun}", sep="\n", flush=True)
                last = self._loop_with_rollbacks(saver, log, interrupt)
        finally:
            with folder.writing():
                log.close()
        stopped_by = interrupt.name if self.state.step < self.total_steps else ""
        return TrainResult(folder.path, self.state.step, stopped_by, last, tuple(log.standing))

    def describe(self) -> str:
        """The data, the classes of a conditional run, the networks, the device and the length, for people to read."""
        height, width = self.stream.image_size
        sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (self.state.generator, self.state.discriminator)]
        count = "an unknown number of images" if self.stream.n is None else counted(self.stream.n, "image")
        classes = f"classes   {numbered(self.task.classes)}\n" if self.task.classes else ""
        return (
            f"data      {self.stream.name}: {count}, {height}x{width}, channels={self.stream.channels}\n"
            f"{classes}"
            f"networks  {self._family()}: generator {sizes[0]:.2f} M parameters, discriminator {sizes[1]:.2f} M\n"
            f"device    {self.device}, precision {self.precision} ({self.precision_reason})\n"
            f"length    {counted(self.total_steps, 'step')} of {self.stream.batch_size or '?'} images"
        )

    def _loop_with_rollbacks(self, saver: Saver, log: RunLog, interrupt: Interrupt) -> dict[str, Any]:
        if self.config.on_nan == "rollback" and not saver.folder.all_checkpoints():
            saver.write_state(self.step)
        attempt = 0
        while True:
            try:
                return self._loop(saver, log, interrupt)
            except NotFinite as problem:
                attempt += 1
                self._go_back(saver, problem, attempt)
                with saver.folder.writing():
                    log.rewind(self.state.step)

    def _loop(self, saver: Saver, log: RunLog, interrupt: Interrupt) -> dict[str, Any]:
        state, last = self.state, saver.folder.last_row()
        done = state.step >= self.total_steps
        while not done:
            turns = range(state.step * self.config.d_steps, (state.step + 1) * self.config.d_steps)
            batch = self.task.batch(turns)  # one for each update of the discriminator
            real = batch.real
            if state.step == 0:
                saver.write_real(real)
                self._save_samples(saver, log)
                log.restart_clock()
            metrics = self.step(*batch)
            state.ema.update(state.generator)
            state.step += 1
            state.images += len(real)
            epoch = None if self.stream.n is None else round(state.images / self.stream.n, 4)

            done = state.step >= self.total_steps or bool(interrupt)  # asked once: what is done has a checkpoint
            sample = done or _is_due(state.step, self.config.sample_every)
            checkpoint = done or _is_due(state.step, self.config.checkpoint_every)
            with saver.folder.writing():
                rows = log.add(state.step, epoch, real, metrics)
                if sample or checkpoint:
                    rows += log.flush()
            if rows:
                _check_finite(rows)
                last = rows[-1]
            if sample:
                self._save_samples(saver, log)
            if checkpoint:
                saver.write_checkpoint(self.step)
            if sample or checkpoint:
                log.restart_clock()
        return last

    def _save_samples(self, saver: Saver, log: RunLog) -> None:
        with saver.folder.writing():
            log.sample(self.state.step, saver.picture())

    def _restore(self, saver: Saver) -> Path | None:
        """Loads the newest checkpoint that is whole, and returns its path; None where there is none."""
        path = saver.restore()
        if path is not None:
            self.step = self._make_step()  # a captured one would go on with the tensors that the optimizers had before
            saver.restore_step(self.step)
            if self.state.step:
                saver.write_generator(self.step)  # it may be of the checkpoint before
        return path

    def _go_back(self, saver: Saver, problem: NotFinite, attempt: int) -> None:
        """To the last checkpoint; raises TrainingDiverged where that is not wanted, or has been done often enough."""
        folder = saver.folder
        sentence = f"the training came to infinite or undefined numbers at step {problem.step} ({problem})"
        if self.config.on_nan == "stop" or attempt > ROLLBACKS:
            kept = folder.all_checkpoints()
            raise TrainingDiverged(
                f"{sentence}{f', {ROLLBACKS} times after going back' if attempt > ROLLBACKS else ''}; "
                + (f"the last good checkpoint is {kept[-1]}; " if kept else "there was no checkpoint yet; ")
                + f"go on by `fastgan resume {folder.path}` with smaller --lr-g ({self.config.lr_g:g}) and --lr-d "
                f"({self.config.lr_d:g})" + (", or with --on-nan rollback." if attempt <= ROLLBACKS else ".")
            )
        path = self._restore(saver)
        seed_everything(self.config.seed, TRAINING + attempt)
        with folder.writing():
            folder.cut_rows(self.state.step)
        warnings.warn(
            f"{sentence}; back to {path}, and on with other random numbers (attempt {attempt} of {ROLLBACKS}).",
            FastganWarning,
            stacklevel=2,
        )

    def _make_state(self, generator: nn.Module, discriminator: nn.Module) -> TrainState:
        config = self.config
        for module in (generator, discriminator):
            module.to(self.device, memory_format=torch.channels_last)
        return TrainState(
            generator,
            discriminator,
            EMA(generator, config.ema_decay),
            _setup.adam(generator, config.lr_g, config.beta1),
            _setup.adam(discriminator, config.lr_d, config.beta1),
        )

    def _make_step(self) -> AdversarialStep:
        return AdversarialStep(
            self.state.generator,
            self.state.discriminator,
            self.state.opt_g,
            self.state.opt_d,
            latent=self._latent,
            precision=self.precision,
            **{name: getattr(self.config, name) for name in STEP_OPTIONS},
        )

    def _folder(self, resume: bool) -> tuple[RunFolder, bool]:
        """The folder, and whether there is a run in it that is to be resumed."""
        if self.config.out is None:
            if resume:
                raise UserError(
                    "resume is asked for, but out is not given; give the run's folder, or use `fastgan resume`."
                )
            return RunFolder(RUNS / next_name(self.stream.name, self._family(), self.stream.image_size)), False
        folder = RunFolder(self.config.out)
        if not (resume and folder.is_begun):
            check_free(folder.path)
            return folder, False
        _resume.check_same(_resume.stored_config(folder), asdict(self.config), folder.path)
        return folder, True

    def _family(self) -> str:
        generator = self.state.generator
        return getattr(generator, "family", type(generator).__name__)

    def _check_image(self) -> None:
        first = [None if part is None else part[:1] for part in self._samples]
        made = tuple(generate(self.state.ema.module, first[0], labels=first[1]).shape[1:])
        wanted = (self.stream.channels, *self.stream.image_size)
        if made != wanted:
            raise UserError(
                f"the generator makes images {list(made)} (channels, height, width), but {self.stream.name} has "
                f"{list(wanted)}; change image_size and channels, or the generator."
            )


def _check_finite(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises NotFinite, of the first of the rows of metrics whose losses are no numbers."""
    for row in rows:
        if row["loss_d"] is None or row["loss_g"] is None:
            raise NotFinite("a loss is not finite", row["step"])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
