"""A trained generator, applied: ``fastgan.load(run).generate(64, seed=0)``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan.data import to_float
from fastgan.errors import UserError
from fastgan.training._device import choose_device
from fastgan.training._latent import first_weight
from fastgan.training.checkpoint import load_weights, read_tensors, sub_state
from fastgan.training.run_folder import RunFolder
from fastgan.training.samples import draw_latents, generate

__all__ = ["RunNotFound", "TrainedGAN", "load"]


class RunNotFound(UserError, FileNotFoundError):
    """There is no such run or file."""


class TrainedGAN:
    """The averaged generator of a run in eval mode and, where it was saved, the discriminator.

    Attributes:
        path: where it was loaded from.
        generator, discriminator: the networks; ``discriminator`` is None for a generator's file.
        image_size: (height, width) in pixels; with ``channels`` the shape of the images.
        latent_shape: of one latent.
        step: how many updates it was trained for.
        data: the name of the images it was trained on.
    """

    def __init__(
        self, path: Path, generator: nn.Module, discriminator: nn.Module | None, described: dict[str, Any]
    ) -> None:
        self.path, self.generator, self.discriminator = path, generator, discriminator
        self.image_size, self.channels = tuple(described["image_size"]), described["channels"]
        self.latent_shape = tuple(described["latent_shape"])
        self.step, self.data = described["step"], described["data"]
        self._from_logits = described["from_logits"]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"TrainedGAN({str(self.path)!r}, {self.data}, {size}, channels={self.channels}, step={self.step})"

    def generate(self, n: int, seed: int = 0, *, batch_size: int = 64) -> Tensor:
        """New images, float32 [n, C, H, W] in [-1, 1] on the CPU.

        Image i depends on the seed and i alone: not on ``n``, and not on ``batch_size``, how many are made at a time.

        Raises:
            UserError: where an argument is no whole number, or too small.
        """
        _check_count("n", n, 1)
        _check_count("seed", seed, 0)
        _check_count("batch_size", batch_size, 1)
        return generate(self.generator, draw_latents(n, self.latent_shape, seed), batch_size)

    @torch.no_grad()
    def score(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """D(x), the discriminator's probability that each image is real: float32 [N] on the CPU.

        The discriminator runs in eval mode, so that an image's score does not depend on the others.

        Args:
            images: [N, C, H, W], of the run's size and channels: floats in [-1, 1], or uint8.
            batch_size: how many are judged at a time.

        Raises:
            UserError: where there is no discriminator, or the images are others than these.
        """
        _check_count("batch_size", batch_size, 1)
        if self.discriminator is None:
            raise UserError(f"{self.path} holds a generator only; load the run's folder to score images.")
        shape = (self.channels, *self.image_size)
        fits = isinstance(images, Tensor) and images.dim() == 4 and tuple(images.shape[1:]) == shape and len(images)
        if not fits or not (images.is_floating_point() or images.dtype == torch.uint8):
            given = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(
                f"images must be floats in [-1, 1] or uint8, [N, {str(shape)[1:-1]}], but they are {given}."
            )
        images = to_float(images) if images.dtype == torch.uint8 else images
        weight = first_weight(self.discriminator)
        images = images.to(weight.device, weight.dtype)
        output = torch.cat([self.discriminator(part) for part in images.split(batch_size)]).float()
        scores = output.sigmoid() if self._from_logits else output
        return scores.flatten(1).mean(1).cpu() if scores.dim() > 1 else scores.cpu()


def load(
    run: str | os.PathLike[str],
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> TrainedGAN:
    """What a run has trained: its averaged generator, and the discriminator of the same step.

    Args:
        run: a run's folder, or a ``generator.safetensors`` alone.
        generator, discriminator: networks that take the weights, for a run that trained networks of your own.
        device: where they are to compute.

    Raises:
        RunNotFound: (a UserError and a FileNotFoundError) there is nothing of a run at that path.
        UserError: (a ValueError) where a file is damaged, or the networks are your own and not given, or others.
    """
    path, device = Path(run), choose_device(str(device))
    file = RunFolder(path).generator if path.is_dir() else path
    if not file.is_file():
        raise RunNotFound(
            f"there is no {'generator.safetensors in' if path.is_dir() else 'run'} {path}; "
            "give the folder of a run, such as runs/00000-digits-dcgan-32x32."
        )
    weights, described = read_tensors(file, "generator")
    if generator is None and described["generator"] is not None:
        generator = models.build(**described["generator"])[0]
    if discriminator is None and described["discriminator"] is not None:
        discriminator = models.build(**described["discriminator"])[1]
    if generator is None:
        raise UserError(
            f"{path} trained a network of your own, {described['class']}; give such a one as generator, and the "
            "discriminator likewise to score images."
        )
    load_weights(generator, weights, file)
    # A run may have ended between writing its newest checkpoint and the generator of that step.
    checkpoint = RunFolder(path).checkpoint(described["step"])
    scores = discriminator is not None and checkpoint.is_file()
    if scores:
        tensors, _ = read_tensors(checkpoint, "checkpoint")
        load_weights(discriminator, sub_state(tensors, "discriminator"), checkpoint)
    for network in (generator, discriminator):
        if network is not None:
            network.to(device, memory_format=torch.channels_last).eval()
    return TrainedGAN(path, generator, discriminator if scores else None, described)


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, but it is {value!r}; give another one.")
