"""How good a trained generator is: ``evaluate(fastgan.load(run))``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fastgan
from fastgan.data import DataNotFound, ImageSet, to_float, to_uint8
from fastgan.data import load as load_data
from fastgan.data.image_set import mirror_some
from fastgan.errors import UserError, counted, warn_once
from fastgan.generation import TrainedGAN
from fastgan.metrics import (
    Extractor,
    density_coverage,
    extractor,
    frechet_distance,
    kernel_distance,
    nearest_index,
    precision_recall,
)
from fastgan.metrics.extractors import INCEPTION, RANDOM, sha256_of
from fastgan.neighbours import find_nearest
from fastgan.training._latent import first_weight
from fastgan.training.config import TrainConfig
from fastgan.training.presets import DATA_SETS
from fastgan.training.run_folder import RunFolder

__all__ = ["SAMPLES", "Evaluation", "evaluate"]

FORMAT = 1  # of a written evaluation; another one where the same images come to other values
SAMPLES = 1000
LEAST = 32  # samples, below which no value means anything
MOST_REAL = 50_000  # images of the reference
A_DIMENSION = 5  # samples, below which chance makes much of the Frechet distance
RARE = 0.01  # of new real images are as near to the reference as a copy
PAIRS = 32
AT_ONCE = 1024  # images that are made


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found."""

    run: str
    """Where the generator was loaded from."""
    step: int
    """How many updates it was trained for."""
    seed: int
    """Of the samples, and of which real images they are compared with."""
    truncation: float | None
    """Of the latents."""
    protocol: dict[str, Any]
    """What two evaluations have to share for their values to be comparable: features, data, size, numbers of images."""
    generated: dict[str, float]
    """The values of the generator by their names."""
    real: dict[str, float]
    """The same of real images that were kept aside: what a perfect generator would get. Empty where none were."""
    version: str = fastgan.__version__
    """Of fastgan."""
    format: int = FORMAT
    closest: Tensor | None = field(default=None, repr=False, compare=False)
    """[2 K, C, H, W] in [-1, 1]: generated images and the real one most like each in turn, the most alike first."""

    def to_json(self) -> str:
        """All but the pictures."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "closest"}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The inverse of :meth:`to_json`. Raises UserError where the text is something else."""
        names = {each.name for each in fields(cls)} - {"closest"}
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict) or set(values) != names or values["format"] != FORMAT:
            raise UserError(
                f"the text is no evaluation of format {FORMAT}; make one anew by `fastgan evaluate` of this version."
            )
        return cls(**values)

    def check_comparable(self, other: Evaluation) -> None:
        """Raises UserError where the values of both say nothing about each other; the message names why."""
        own, theirs = _flat(self.protocol), _flat(other.protocol)
        different = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
        if different:
            listed = ", ".join(f"{name} {own.get(name)} and {theirs.get(name)}" for name in different)
            raise UserError(
                f"the evaluations of {self.run} and {other.run} cannot be compared, because they differ in {listed}; "
                "evaluate both alike."
            )


def evaluate(
    gan: TrainedGAN,
    data: Any = None,
    *,
    samples: int | None = None,
    features: str | Path | nn.Module | Extractor = RANDOM,
    weights: str | Path | None = None,
    seed: int = 0,
    truncation: float | None = None,
    all_real: bool = False,
) -> Evaluation:
    """Compares generated images with real ones.

    As many real images as are generated are kept aside, and both are compared with the others, the reference. So the
    values of these real images are what a perfect generator would get, chance and the number of images included. Labels
    of generated images are drawn as real ones are. Where the run mirrored its images, real ones are mirrored likewise.

    The values: ``frechet_distance`` (``fid`` with Inception's features) and ``kernel_distance`` (``kid``) with its
    ``deviation``; ``precision``, ``recall`` (k = 3), ``density`` and ``coverage`` (k = 5), beside as many of the
    reference; ``label_agreement``, the share whose nearest of the reference has the label that they were made for;
    ``nearest``, the median distance to the most similar image of the reference, as :func:`find_nearest` measures it;
    ``copies``, the share that is nearer to one than all but 1% of the real images.

    The run's discriminator takes no part: it has been trained against this very generator, which has learnt to deceive
    it, and each run has another one.

    Args:
        gan: what :func:`fastgan.load` gives.
        data: an ImageSet, or what ``fastgan train --data`` takes; None: the images that the run was trained on.
        samples: how many to generate; None: 1,000, or half as many as there are real images where that is less.
        features, weights: what images are compared by, as :func:`fastgan.metrics.extractor` takes it.
        seed: of the samples, and of which real images are kept aside.
        truncation: of the latents, as :meth:`TrainedGAN.latents` takes it.
        all_real: compare with all real images, as published values do, which leaves none to be kept aside.

    Raises:
        UserError: where the images are not to be found, of another shape or too few, or the run makes images of images.
    """
    gan.check_of_latents("which have to be compared one by one with what they should be, not as sets")
    real, mirrored = _real_images(gan, data)
    n = _count(samples, len(real), all_real)
    latents = gan.latents(n, seed, truncation=truncation)
    place = {"channels": gan.channels, "image_size": gan.image_size, "device": first_weight(gan.generator).device}
    take = extractor(features, weights=weights, **place)
    judge = _Judge(real, n, take, seed, mirrored=mirrored, all_real=all_real, is_fid=features == INCEPTION)
    labels = _labels(gan, judge, n, seed)
    fake = _generated(gan, latents, labels)
    nearest = judge.nearest(fake)
    generated = judge.values(fake, labels, nearest.distance)
    held_out = judge.values_held_out(with_labels=labels is not None)
    judge.warn_of_chance(n, held_out)
    return Evaluation(
        run=str(gan.path),
        step=gan.step,
        seed=seed,
        truncation=truncation,
        protocol={
            "features": {"name": take.name, "numbers": judge.features.shape[1], "sha256": take.sha256},
            "data": {"name": real.name, "images": len(real), "sha256": _fingerprint(real.images)},
            "image_size": list(gan.image_size),
            "channels": gan.channels,
            "mirrored": mirrored,
            "images": {"reference": len(judge.reference), "generated": n, "held_out": 0 if all_real else n},
        },
        generated=generated,
        real=held_out,
        closest=_closest(fake, nearest),
    )


class _Nearest(NamedTuple):
    """Of each image the nearest of the reference."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    distance: Tensor
    """float32 [N], as :func:`find_nearest` measures it."""


class _Judge:
    """The real images, parted, and what is said of others beside them.

    Attributes:
        reference, held_out: uint8 [N, C, H, W]; the latter None where all are the reference.
        labels, held_out_labels: int64 [N], or None where the images have none.
        features: of the reference.
    """

    def __init__(
        self, real: ImageSet, n: int, take: Extractor, seed: int, *, mirrored: bool, all_real: bool, is_fid: bool
    ) -> None:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(real)))
        aside, others = (None, order) if all_real else (order[:n], order[n : n + MOST_REAL])
        self._mirror = torch.Generator().manual_seed(seed) if mirrored else None
        self.reference, self.labels = self._chosen(real, others)
        self.held_out, self.held_out_labels = (None, None) if aside is None else self._chosen(real, aside)
        self._take, self._seed = take, seed
        features = take(self.reference)
        self._mean, self._deviation = 0.0, 1.0
        if take.standardise:
            deviation = features.std(0)
            # What hardly varies keeps its scale, or else its rounding would be all that counts.
            self._mean, self._deviation = features.mean(0), deviation.where(deviation > 1e-4, 1.0)
        self.features = self._scaled(features)
        self._distances = ("fid", "kid") if is_fid else ("frechet_distance", "kernel_distance")
        self._held_out_distance = None if self.held_out is None else self.nearest(self.held_out).distance

    def _chosen(self, real: ImageSet, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = real.images[indices.to(real.images.device)].cpu()
        images = images if self._mirror is None else mirror_some(images, self._mirror)
        return images, None if real.labels is None else real.labels[indices]

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._deviation

    def values_held_out(self, *, with_labels: bool) -> dict[str, float]:
        """:meth:`values` of the real images that were kept aside; nothing where none were."""
        if self.held_out is None:
            return {}
        return self.values(self.held_out, self.held_out_labels if with_labels else None, self._held_out_distance)

    def values(self, images: Tensor, labels: Tensor | None, distance: Tensor) -> dict[str, float]:
        """The metrics of images, uint8 [N, C, H, W], by their names; ``distance`` is what :meth:`nearest` finds."""
        features, (frechet, kernel) = self._scaled(self._take(images)), self._distances
        same = min(len(self.features), len(features))  # values of two numbers of samples are not comparable
        between = kernel_distance(self.features, features, subset_size=min(1000, same // 2), seed=self._seed)
        found = {frechet: frechet_distance(self.features, features)}
        found |= {kernel: between.mean, f"{kernel}_deviation": between.deviation}
        for metric in (precision_recall, density_coverage):
            found |= metric(self.features[:same], features[:same])._asdict()
        if labels is not None and self.labels is not None:
            theirs = self.labels[nearest_index(features, self.features)]
            found["label_agreement"] = (theirs == labels).double().mean().item()
        found["nearest"] = distance.median().item()
        if self._held_out_distance is not None:
            rare = np.quantile(self._held_out_distance, RARE)
            found["copies"] = (distance < float(rare)).double().mean().item()
        return found

    def nearest(self, images: Tensor) -> _Nearest:
        """The nearest of the reference, mirrored or not where the run mirrors, to each of the first images."""
        floats = to_float(images[:SAMPLES])
        found = _nearest(floats, self.reference)
        if self._mirror is None:
            return found
        turned = _nearest(floats.flip(-1), self.reference)
        nearer = turned.distance < found.distance
        return _Nearest(
            torch.where(nearer[:, None, None, None], turned.images.flip(-1), found.images),
            torch.minimum(found.distance, turned.distance),
        )

    def warn_of_chance(self, n: int, real: dict[str, float]) -> None:
        """Where the Frechet distance tells little, because there are few images for so many features."""
        dimension = self.features.shape[1]
        if min(n, len(self.features)) < A_DIMENSION * dimension:
            name = self._distances[0]
            of_real = f" (of real images it is {real[name]:.4g})" if real else ""
            warn_once(
                f"few samples {n} {dimension}",
                f"{n:,} images are few for {dimension:,} features, so that chance alone makes the Frechet distance "
                f"larger{of_real}; give at least {A_DIMENSION * dimension:,} samples, or go by the kernel distance.",
            )


def _real_images(gan: TrainedGAN, data: Any) -> tuple[ImageSet, bool]:
    """The images to compare with, and whether the run mirrored its own."""
    file = RunFolder(gan.path).config
    config = TrainConfig.from_json(file.read_text(encoding="utf-8")) if file.is_file() else None
    mirrored = config is not None and config.mirror
    if not isinstance(data, ImageSet):
        data = _loaded(gan, data, config)
    shape = (gan.channels, *gan.image_size)
    if tuple(data.images.shape[1:]) != shape:
        raise UserError(
            f"{data.name} has images {list(data.images.shape[1:])} (channels, height, width), but {gan.path} makes "
            f"{list(shape)}; give data that is so."
        )
    return data, mirrored


def _loaded(gan: TrainedGAN, data: Any, config: TrainConfig | None) -> ImageSet:
    resize = "crop" if config is None else config.resize
    options = {"image_size": gan.image_size, "channels": gan.channels, "resize": resize}
    if data is not None:
        return load_data(data, **options)
    recorded = config.data if config is not None else gan.data if gan.data in DATA_SETS else None
    if recorded is None:
        raise UserError(f"{gan.path} does not say where the images are that it was trained on; give them as data.")
    try:
        return load_data(recorded, **options)
    except DataNotFound as error:
        raise UserError(
            f"{gan.path} was trained on {recorded}, which is not to be found any more ({str(error).split(';')[0]}); "
            "give the images as data."
        ) from None


def _count(samples: int | None, real: int, all_real: bool) -> int:
    """How many images are generated."""
    most = real // 2
    if most < LEAST:
        found = f"{'is' if real == 1 else 'are'} {counted(real, 'real image')}"
        raise UserError(f"there {found}, but it takes {2 * LEAST} to evaluate; give more as data.")
    if samples is None:
        return min(SAMPLES, most)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < LEAST:
        raise UserError(f"samples must be a whole number of at least {LEAST}, but it is {samples!r}; give another one.")
    if samples > most and not all_real:
        raise UserError(
            f"samples is {samples:,}, but as many of the {real:,} real images are kept aside, at most half of them; "
            f"give at most {most:,}, or all_real (--all-real)."
        )
    return samples


def _labels(gan: TrainedGAN, judge: _Judge, n: int, seed: int) -> Tensor | None:
    """int64 [n]: what the images are to be of, as often as real ones are; None where the run has no classes."""
    if gan.num_classes == 0:
        return None
    if judge.labels is None:
        return torch.arange(n) % gan.num_classes
    if int(judge.labels.max()) >= gan.num_classes:
        raise UserError(
            f"the real images have labels up to {int(judge.labels.max())}, but {gan.path} knows the classes 0 to "
            f"{gan.num_classes - 1}; give data with these."
        )
    if judge.held_out_labels is not None:
        return judge.held_out_labels
    return judge.labels[torch.from_numpy(np.random.default_rng(seed).integers(len(judge.labels), size=n))]


def _generated(gan: TrainedGAN, latents: Tensor, labels: Tensor | None) -> Tensor:
    """uint8 [N, C, H, W], because real images have so many levels of brightness too."""
    some = latents.split(AT_ONCE)
    of = [None] * len(some) if labels is None else labels.split(AT_ONCE)
    return torch.cat([to_uint8(gan.images_of(part, label=label)) for part, label in zip(some, of, strict=True)])


def _nearest(images: Tensor, known: Tensor) -> _Nearest:
    found = find_nearest(images, known)
    return _Nearest(found.images[:, 0], found.distance[:, 0])


def _closest(images: Tensor, nearest: _Nearest) -> Tensor:
    """[2 K, C, H, W] in [-1, 1]: the images that are most like one of the reference, each with it."""
    order = nearest.distance.argsort()[:PAIRS]
    return to_float(torch.stack([images[order], nearest.images[order]], 1).flatten(0, 1))


def _fingerprint(images: Tensor) -> str:
    """The SHA-256 of some images, spread evenly."""
    places = torch.linspace(0, len(images) - 1, min(len(images), 1000), dtype=torch.float64).long()
    return sha256_of([images[places.to(images.device)].cpu().contiguous().numpy().tobytes()])


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The leaves of dicts in dicts, by their names one after another."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name} ") if isinstance(value, dict) else {f"{before}{name}": value}
    return found
