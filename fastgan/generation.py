"""A trained generator, applied: ``fastgan.load(run).generate(64, seed=0)``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan._memory import check_fits
from fastgan.data import ImageSet, to_float
from fastgan.data import load as load_data
from fastgan.errors import UserError, counted
from fastgan.latents import truncate
from fastgan.losses import CROSS_ENTROPIES
from fastgan.neighbours import Nearest, find_nearest
from fastgan.training._device import choose_device
from fastgan.training._latent import first_weight
from fastgan.training.checkpoint import load_weights, read_tensors, sub_state
from fastgan.training.run_folder import RunFolder, newest_run
from fastgan.training.samples import draw_latents, generate
from fastgan.training.task import numbered

__all__ = ["SHIPPED", "RunNotFound", "TrainedGAN", "load"]

DIGITS = "digits"  # what load() calls the generator that comes with fastgan
SHIPPED = Path(__file__).parent / "assets" / DIGITS / "generator.safetensors"


Label = int | str | Sequence[int | str] | Tensor  # of all images, or of each


class RunNotFound(UserError, FileNotFoundError):
    """There is no such run or file."""


class TrainedGAN:
    """The averaged generator of a run in eval mode and, where it was saved, the discriminator.

    Attributes:
        path: where it was loaded from.
        generator: the network.
        image_size: (height, width) in pixels; with ``channels`` the shape of the images.
        latent_shape: of one latent.
        num_classes: that images are made by; 0 where it was trained without.
        classes: their names, by number, where they have some.
        source_channels: of the images that an image-to-image generator is given; None for one of latents.
        step: how many updates it was trained for.
        data: the name of the images it was trained on.
        scores_are_probabilities: whether :meth:`score` gives D(x), or scores of any number.
        described: all that the file says of the generator.
    """

    def __init__(
        self,
        path: Path,
        generator: nn.Module,
        read_discriminator: Callable[[], nn.Module] | None,
        described: dict[str, Any],
    ) -> None:
        self.path, self.generator, self._read_discriminator = path, generator, read_discriminator
        self.image_size, self.channels = tuple(described["image_size"]), described["channels"]
        self.latent_shape = tuple(described["latent_shape"] or ())
        self.step, self.data = described["step"], described["data"]
        self.num_classes = getattr(generator, "num_classes", 0)
        self.classes = tuple(described.get("classes", ()))
        self.source_channels = getattr(generator, "in_channels", None)
        loss = described.get("loss", "non_saturating")  # the first files do not say
        self.scores_are_probabilities = described["from_logits"] and loss in CROSS_ENTROPIES
        self.described = described

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"TrainedGAN({str(self.path)!r}, {self.data}, {size}, channels={self.channels}, step={self.step})"

    @cached_property
    def discriminator(self) -> nn.Module | None:
        """The discriminator of the same step, read when it is first asked for; None for a generator's file.

        Raises:
            UserError: where its file is damaged, or has been removed since the generator was loaded.
        """
        return None if self._read_discriminator is None else self._read_discriminator()

    def check_of_latents(self, so: str) -> None:
        """Raises UserError where the generator makes its images of images; ``so`` says why that will not do."""
        if self.source_channels is not None:
            raise UserError(
                f"{self.path} maps images to images, {so}; apply it by `fastgan generate {self.path} --source FOLDER` "
                "(in Python: translate())."
            )

    def check_fits(self, n: int, images: bool = True) -> None:
        """Raises UserError where ``n`` latents, and by default what is made of them, are more than memory holds."""
        of_one = math.prod(self.latent_shape)
        if images:
            of_one += 2 * self.channels * math.prod(self.image_size)  # in batches, and then in one tensor
        check_fits(4 * n * of_one, f"{n:,} {'images' if images else 'latents'}", "make fewer at a time")

    def latents(self, n: int, seed: int = 0, *, truncation: float | None = None) -> Tensor:
        """What :meth:`generate` makes images of: float32 [n, *latent_shape] from N(0, 1).

        Args:
            n: how many; the first ones of a seed are always the same.
            seed: a whole number of at least 0.
            truncation: how many standard deviations to keep (:func:`fastgan.latents.truncate`); None: all.

        Raises:
            UserError: where an argument is out of range, so many do not fit into memory, or the generator makes its
                images of images.
        """
        _check_count("n", n, 1)
        self.check_fits(n, images=False)
        _check_count("seed", seed, 0)
        self.check_of_latents("so there is nothing to draw")
        latents = draw_latents(n, self.latent_shape, seed)
        if truncation is None:
            return latents
        if isinstance(truncation, bool) or not isinstance(truncation, (int, float)) or not truncation > 0:
            raise UserError(f"truncation must be a number above 0, such as 1.5, but it is {truncation!r}; give such.")
        return truncate(latents, truncation)

    def generate(
        self,
        n: int,
        seed: int = 0,
        *,
        label: Label | None = None,
        truncation: float | None = None,
        batch_size: int = 64,
    ) -> Tensor:
        """New images, float32 [n, C, H, W] in [-1, 1] on the CPU.

        Image i depends on the seed, its label and i alone: not on ``n``, and not on ``batch_size``, how many are made
        at a time, but for the rounding of sums.

        Args:
            n, seed, truncation: as :meth:`latents` takes them.
            label: the class of all images, or of each, by number or by name; None: the classes in turn. Only where the
                run has classes.

        Raises:
            UserError: where an argument is out of range, or so many do not fit into memory.
        """
        _check_count("n", n, 1)
        self.check_fits(n)
        return self.images_of(self.latents(n, seed, truncation=truncation), label=label, batch_size=batch_size)

    def images_of(self, latents: Tensor, *, label: Label | None = None, batch_size: int = 64) -> Tensor:
        """The images of latents [N, *latent_shape]: float32 [N, C, H, W] in [-1, 1] on the CPU.

        Raises:
            UserError: where the latents are of another shape, or the label is out of range.
        """
        _check_count("batch_size", batch_size, 1)
        if not isinstance(latents, Tensor) or tuple(latents.shape[1:]) != self.latent_shape or len(latents) == 0:
            raise UserError(
                f"latents must be a tensor [N, {str(list(self.latent_shape))[1:-1]}], but they are {_words(latents)}; "
                "gan.latents(n) draws such."
            )
        return generate(self._applied(), latents.float(), batch_size, self._labels(label, len(latents)))

    def translate(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """What an image-to-image generator makes of images: float32 [N, C, H, W] in [-1, 1] on the CPU.

        Args:
            images: [N, C, H, W] of the run's size: floats in [-1, 1], or uint8.
            batch_size: how many are made at a time.

        Raises:
            UserError: where the run makes its images of latents, or the images are others than these.
        """
        _check_count("batch_size", batch_size, 1)
        if self.source_channels is None:
            raise UserError(f"{self.path} makes its images of latents; use generate() instead.")
        images = _as_floats("images", images, (self.source_channels, *self.image_size))
        return generate(self._applied(), images, batch_size)

    def nearest(self, images: Tensor, data: Any, *, k: int = 1) -> Nearest:
        """The training images most like each image: has the generator learnt them by heart?

        Args:
            images: [N, C, H, W], of the run's size and channels: floats in [-1, 1], or uint8.
            data: where to look: an ImageSet, a uint8 tensor of such images, or what ``fastgan train --data`` takes.
            k: how many for each.

        Raises:
            UserError: where the images are others than these, or there are fewer than k.
        """
        shape = (self.channels, *self.image_size)
        images = _as_floats("images", images, shape)
        if not isinstance(data, (Tensor, ImageSet)):
            data = load_data(data, image_size=self.image_size, channels=self.channels)
        known = data.images if isinstance(data, ImageSet) else data
        if known.dtype != torch.uint8 or tuple(known.shape[1:]) != shape:
            raise UserError(f"data must be uint8 [N, {str(shape)[1:-1]}], but it is {_words(known)}; give such.")
        _check_count("k", k, 1)
        if k > len(known):
            raise UserError(f"k is {k}, but data has {counted(len(known), 'image')}; give at most that.")
        return find_nearest(images, known, k)

    @torch.no_grad()
    def score(self, images: Tensor, *, label: Label | None = None, batch_size: int = 64) -> Tensor:
        """What the discriminator says of each image: float32 [N] on the CPU.

        That is D(x), the probability that the image is real, and after training with a loss of scores (hinge,
        least_squares, wgan_gp) the score itself, any number: higher is more real. The discriminator runs in eval mode,
        so that what it says of an image does not depend on the others.

        Args:
            images: [N, C, H, W], of the run's size and channels: floats in [-1, 1], or uint8.
            label: the class of all images, or of each, where the run has classes.
            batch_size: how many are judged at a time.

        Raises:
            UserError: where there is no discriminator, it judges pairs, or the images are others than these.
        """
        _check_count("batch_size", batch_size, 1)
        if self.discriminator is None:
            raise UserError(f"{self.path} holds a generator only; load the run's folder to score images.")
        if self.source_channels is not None:
            raise UserError(f"the discriminator of {self.path} judges pairs of images; call gan.discriminator itself.")
        images = _as_floats("images", images, (self.channels, *self.image_size))
        if self.num_classes and label is None:
            raise UserError("label is not given, but the discriminator judges images by their class; give each one's.")
        labels = self._labels(label, len(images))
        weight = first_weight(self.discriminator)
        output = generate(self.discriminator, images.to(weight.dtype), batch_size, labels)
        scores = output.sigmoid() if self.scores_are_probabilities else output
        return scores.flatten(1).mean(1) if scores.dim() > 1 else scores

    def _applied(self) -> nn.Module:
        """The generator, faster: folded anew in every call, because its weights may have changed."""
        return self.generator if models.arguments_of(self.generator) is None else models.folded(self.generator)

    def _labels(self, label: Label | None, n: int) -> Tensor | None:
        """int64 [n], or None where the run has no classes."""
        if self.num_classes == 0:
            if label is not None:
                raise UserError(f"label is {label!r}, but {self.path} was trained without classes; leave it out.")
            return None
        if label is None:
            return torch.arange(n) % self.num_classes
        label = label.tolist() if isinstance(label, Tensor) else label
        labels = list(label) if isinstance(label, (list, tuple, range)) else [label] * n
        labels = [self.classes.index(each) if each in self.classes else each for each in labels]
        known = all(isinstance(each, int) and not isinstance(each, bool) for each in labels)
        if not known or len(labels) != n or not all(0 <= each < self.num_classes for each in labels):
            names = f" ({numbered(self.classes)})" if self.classes else ""
            raise UserError(
                f"label must be a class from 0 to {self.num_classes - 1}{names}, or {n} of them, but it is {label!r}; "
                "give such, or leave it out for all classes in turn."
            )
        return torch.tensor(labels, dtype=torch.int64)


def load(
    run: str | os.PathLike[str] | None = None,
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> TrainedGAN:
    """What a run has trained: its averaged generator, and the discriminator of the same step.

    Args:
        run: a run's folder, a ``generator.safetensors`` alone, or "digits", the generator that comes with fastgan. By
            default the newest run under ``runs/``, and the digits where there is none.
        generator, discriminator: networks that take the weights, for a run that trained networks of your own.
        device: where they are to compute.

    Raises:
        RunNotFound: (a UserError and a FileNotFoundError) there is nothing of a run at that path.
        UserError: (a ValueError) where ``run`` is no path, a file is damaged or not to be read, or the networks are
            your own and not given, or others.
    """
    path, device = _path_of(run), choose_device(str(device))
    file = _file_of(path)
    weights, described = read_tensors(file, "generator")
    if generator is None and described["generator"] is not None:
        generator = models.build(**described["generator"])[0]
    if generator is None:
        raise UserError(
            f"{path} trained a network of your own, {described['class']}; give such a one as generator, and the "
            "discriminator likewise to score images."
        )
    if described.get("folded") and models.arguments_of(generator) is not None:
        generator = models.folded(generator)
    load_weights(generator, weights, file)
    # A run may have ended between writing its newest checkpoint and the generator of that step.
    checkpoint = RunFolder(path).checkpoint(described["step"])
    scores = checkpoint.is_file() and (discriminator is not None or described["discriminator"] is not None)

    def read_discriminator() -> nn.Module:
        network = discriminator or models.build(**described["discriminator"])[1]
        return _ready(_with_weights_of(checkpoint, network), device)

    gan = TrainedGAN(path, _ready(generator, device), read_discriminator if scores else None, described)
    if discriminator is not None:
        _ = gan.discriminator  # the caller's own has its weights from here on
    return gan


def _path_of(run: str | os.PathLike[str] | None) -> Path:
    if run == DIGITS:
        return SHIPPED
    if run is not None:
        try:
            return Path(run)
        except TypeError:
            raise UserError(
                f"run must be the path of a run or '{DIGITS}', but it is a {type(run).__name__}; give one of them."
            ) from None
    try:
        return newest_run()
    except FileNotFoundError:
        return SHIPPED


def _file_of(path: Path) -> Path:
    """The file of a run's generator, or the path itself. Raises UserError where it is not there, or cannot be read."""
    try:
        file = RunFolder(path).generator if path.is_dir() else path
        with file.open("rb"):
            return file
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); change its permissions or give another run."
        ) from None
    except OSError:
        raise RunNotFound(
            f"there is no {'generator.safetensors in' if path.is_dir() else 'run'} {path}; "
            "give the folder of a run, such as runs/00000-digits-dcgan-32x32."
        ) from None


def _with_weights_of(checkpoint: Path, discriminator: nn.Module) -> nn.Module:
    if not checkpoint.is_file():
        raise RunNotFound(
            f"{checkpoint} is gone, since its run was trained on or removed after this generator was loaded; load the "
            "run again to score images."
        )
    tensors, _ = read_tensors(checkpoint, "checkpoint")
    load_weights(discriminator, sub_state(tensors, "discriminator"), checkpoint)
    return discriminator


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device, memory_format=torch.channels_last).eval()


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, but it is {value!r}; give another one.")


def _as_floats(name: str, images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [N, *shape] in [-1, 1], of such or of uint8."""
    fits = isinstance(images, Tensor) and images.dim() == 4 and tuple(images.shape[1:]) == shape and len(images)
    if not fits or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise UserError(
            f"{name} must be floats in [-1, 1] or uint8, [N, {str(shape)[1:-1]}], but they are {_words(images)}."
        )
    return to_float(images) if images.dtype == torch.uint8 else images


def _words(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
