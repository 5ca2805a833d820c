"""A trained generator, applied: ``fastgan.load(run).generate(64, seed=0)``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan.errors import UserError
from fastgan.training.checkpoint import load_into, read_tensors
from fastgan.training.latent import LatentSource
from fastgan.training.run_folder import RunFolder

__all__ = ["TrainedGAN", "load"]


class TrainedGAN:
    """A generator with averaged weights in eval mode, and, where there is a checkpoint, its discriminator.

    Attributes:
        generator, discriminator: the networks; ``discriminator`` is None where only a generator was saved.
        image_size: (height, width); with ``channels``, ``latent_dim``, ``width`` and ``family`` as the generator was built.
        step: how many updates it was trained for.
        config: the settings of the run, as a dict.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module | None, about: dict[str, Any], path: Path) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.path, self.step, self.config = path, about["step"], about["config"]
        self.image_size = tuple(self.config["image_size"])
        self.channels = self.config["channels"]
        arguments = about["model"] or {}
        self.family, self.latent_dim, self.width = (arguments.get(name) for name in ("family", "latent_dim", "width"))
        self._latent = LatentSource(generator)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"TrainedGAN({str(self.path)!r}, {self.family}, {size}, channels={self.channels}, step={self.step})"

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0, *, batch_size: int = 64) -> Tensor:
        """New images, float32 [n, C, H, W] in [-1, 1] on the CPU.

        The same seed gives the same images, whatever ``batch_size`` (how many go through the network at a time) and ``n``.

        Raises:
            UserError: if ``n`` or ``batch_size`` is below 1.
        """
        _check_count("n", n)
        _check_count("batch_size", batch_size)
        latent = self._latent(n, torch.Generator().manual_seed(seed))
        return torch.cat([self.generator(part).float().cpu().contiguous() for part in latent.split(batch_size)])

    @torch.no_grad()
    def score(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """D(x), the discriminator's probability that each image is real: float32 [N] on the CPU.

        Args:
            images: floats in [-1, 1], [N, C, H, W] of the run's size and channels.
            batch_size: how many go through the network at a time.

        Raises:
            UserError: where there is no discriminator, or for images of another shape or dtype.
        """
        if self.discriminator is None:
            raise UserError(f"{self.path} holds a generator only; load the run's folder or a checkpoint of it to score images.")
        _check_count("batch_size", batch_size)
        expected = (self.channels, *self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected or not images.is_floating_point():
            raise UserError(
                f"images must be floats in [-1, 1] of shape [N, {', '.join(map(str, expected))}], but they are {images.dtype} "
                f"{list(images.shape)}; scale and resize them."
            )
        like = next(self.discriminator.parameters())
        parts = [self.discriminator(part.to(like.device, like.dtype)) for part in images.split(batch_size)]
        return torch.cat(parts).float().sigmoid().cpu() if parts else torch.empty(0)


def load(
    run: str | os.PathLike[str],
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> TrainedGAN:
    """Loads what a run has trained.

    Args:
        run: a run's folder, a ``generator.safetensors``, or a checkpoint.
        generator, discriminator: networks to load the weights into, for a run that trained networks of one's own.
        device: where they are to run.

    Raises:
        UserError: where there is no run or file, it is damaged, or its networks are not known.
    """
    path = Path(run)
    generator_file, checkpoint = _files(path)
    tensors, about = read_tensors(checkpoint or generator_file)
    
    return TrainedGAN(generator, discriminator, about, path)
