"""What is kept of a run to look at, to go on from and to use: pictures, checkpoints, and the generator on its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fastgan import models
from fastgan.errors import UserError, counted
from fastgan.images import image_grid, save_image
from fastgan.training import _resume
from fastgan.training.checkpoint import TrainState, load_newest, read_tensors, save_checkpoint, write_tensors
from fastgan.training.config import TrainConfig
from fastgan.training.run_folder import RunFolder
from fastgan.training.samples import generate
from fastgan.training.step import AdversarialStep
from fastgan.training.task import Samples, Task

__all__ = ["Saver"]

REAL = 64  # images of real.png


class Saver:
    """Writes the state of a run to its folder, and reads it again.

    Args:
        folder, config, task: of the run.
        state: what it changes.
        samples: what the pictures are made of.
        latent_shape: of one latent; None where images are made of images.

    Raises:
        UserError: (every method) where the folder cannot be written.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        task: Task,
        state: TrainState,
        samples: Samples,
        latent_shape: tuple[int, ...] | None,
    ) -> None:
        self.folder = folder
        self._config, self._task, self._state = config, task, state
        self._samples, self._latent_shape = samples, latent_shape

    def write_real(self, images: Tensor) -> None:
        """The picture of real images, of which those of the first step are given."""
        stream, step = self._task.stream, 0
        while stream.resumable and len(images) < REAL:  # other streams give each batch once
            step += 1
            images = torch.cat([images, stream.batch(step, device=images.device)])
        with self.folder.writing():
            save_image(image_grid(images[:REAL]), self.folder.samples / "real.png")

    def picture(self) -> Image.Image:
        """What the averaged generator makes of the samples; it is for the log to write."""
        images = generate(self._state.ema.module, self._samples.latents, labels=self._samples.labels)
        return self._task.picture(images)

    def write_checkpoint(self, step: AdversarialStep) -> None:
        """The state, then the generator on its own; the oldest checkpoints beyond ``keep_checkpoints`` go.

        Raises:
            NotFinite: as :func:`save_checkpoint` does.
        """
        self.write_state(step)
        self.write_generator(step)
        with self.folder.writing():
            for old in self.folder.all_checkpoints()[: -self._config.keep_checkpoints]:
                old.unlink()

    def write_state(self, step: AdversarialStep) -> None:
        """A checkpoint of the networks and optimizers, and of what ``step`` itself remembers."""
        self._state.facts = {
            "config": replace(self._config, out=None).to_dict(),  # the folder may move
            "data": [self._task.stream.name, self._task.stream.n],
            "from_logits": step.from_logits,
            "step": step.state_dict() if hasattr(step, "state_dict") else {},
        }
        with self.folder.writing():
            save_checkpoint(self.folder.checkpoint(self._state.step), self._state)

    def write_generator(self, step: AdversarialStep) -> None:
        """The averaged generator, with what :func:`fastgan.load` needs to build the networks again and to use them."""
        generator, stream = self._state.generator, self._task.stream
        described: dict[str, Any] = {
            "kind": "generator",
            "generator": models.arguments_of(generator),
            "discriminator": models.arguments_of(self._state.discriminator),
            "class": type(generator).__name__,
            "from_logits": step.from_logits,
            "loss": self._config.loss,
            "latent_shape": self._latent_shape,
            "image_size": stream.image_size,
            "channels": stream.channels,
            "data": stream.name,
            "classes": self._task.classes,
            "step": self._state.step,
        }
        with self.folder.writing():
            write_tensors(self.folder.generator, self._state.ema.module.state_dict(), described)

    def restore(self) -> Path | None:
        """Loads the newest checkpoint that is whole, and returns its path; None where there never was one.

        Learning rates stay those of the configuration. Warns where the run has seen other data.

        Raises:
            UserError: where the run has trained beyond its first checkpoint, and none is left: begun anew, it would
                overwrite what it has trained.
        """
        path = load_newest(self.folder.all_checkpoints(), self._state)
        if path is None:
            self._check_untrained()
        else:
            for optimizer, lr in ((self._state.opt_g, self._config.lr_g), (self._state.opt_d, self._config.lr_d)):
                for group in optimizer.param_groups:
                    group["lr"] = lr
            _resume.warn_of_other_data(self._state.facts["data"], self._task.stream)
        return path

    def _check_untrained(self) -> None:
        folder, step = self.folder, 0
        if folder.generator.is_file():
            step = read_tensors(folder.generator, "generator")[1]["step"]
        # Rows alone are also left by a kill before the first checkpoint; the run's own interval tells how many may be.
        elif 0 < _resume.stored_config(folder).checkpoint_every < (row := folder.last_row().get("step", 0)):
            step = row
        if step:
            raise UserError(
                f"{folder.path} has trained {counted(step, 'step')}, but {folder.checkpoints} holds none to go on "
                "from; bring one back from a copy, or begin a new run by another out."
            )

    def restore_step(self, step: AdversarialStep) -> None:
        """Tells a new step what the one before remembered when the state was saved."""
        facts = self._state.facts
        step.from_logits = facts["from_logits"]
        if facts["step"]:
            own, stored = step.state_dict()["scalers"], facts["step"]["scalers"]
            if [*map(bool, own)] != [*map(bool, stored)]:  # the run goes on in another precision
                facts = {**facts, "step": {**facts["step"], "scalers": own}}
            step.load_state_dict(facts["step"])
