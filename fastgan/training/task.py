"""What the networks of a run are given: latents alone, classes too, or images to make images of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastgan.data import ImageSet, Stream
from fastgan.errors import UserError
from fastgan.images import image_grid
from fastgan.training.samples import draw_latents

__all__ = ["PAIRS", "SOURCES", "TASKS", "Batch", "Classes", "Latents", "Samples", "Sources", "Task", "numbered"]

SAMPLES = 64  # images of a grid
COLUMNS = 8
MOST_ROWS = 10  # of classes
MOST_NAMES = 10
TRIPLES = 24  # of a source, what is made of it, and the real image


class Batch(NamedTuple):
    """What a step takes."""

    real: Tensor
    latent: Tensor | None = None
    labels: Tensor | None = None


class Samples(NamedTuple):
    """What the pictures of a run are made of, the same ones from its first step on."""

    latents: Tensor
    labels: Tensor | None = None


class Latents:
    """Images are made of latents alone.

    Args:
        stream: the real images.
        device: where batches are wanted.
        seed: of the samples.
    """

    options: Mapping[str, Any] = MappingProxyType({})
    """Arguments of :func:`fastgan.models.build` that follow from the task."""
    classes: tuple[str, ...] = ()
    """Their names, by number, where images are of classes that have names."""

    def __init__(self, stream: Stream, device: torch.device, seed: int) -> None:
        self.stream, self.device, self.seed = stream, device, seed

    def batch(self, turns: Iterable[int]) -> Batch:
        """The batches of so many turns of the stream, one after another."""
        parts = list(zip(*(self._turn(turn) for turn in turns), strict=True))
        return Batch(*(None if part[0] is None else torch.cat(part) for part in parts))

    def samples(self, latent_shape: tuple[int, ...] | None) -> Samples:
        """What the pictures are made of."""
        return Samples(draw_latents(SAMPLES, latent_shape, self.seed))

    def picture(self, images: Tensor) -> Image.Image:
        """The images of the samples."""
        return image_grid(images)

    def _turn(self, turn: int) -> Batch:
        return Batch(self.stream.batch(turn, device=self.device, dtype=torch.float32))


class Classes(Latents):
    """Images are made of latents and of the class that they are to be of, which the real images' labels tell.

    Raises:
        UserError: where the images have no labels.
    """

    def __init__(self, stream: Stream, device: torch.device, seed: int) -> None:
        super().__init__(stream, device, seed)
        self.num_classes = _num_classes(stream)
        if self.num_classes == 0 and _dataset(stream) is not None:
            raise UserError(
                f"conditional needs images with labels, but {stream.name} does not tell how many classes it has; give "
                "fastgan.data.from_dataset(dataset), which reads the label of every item, give the Dataset an "
                "attribute classes, their names, or leave conditional out."
            )
        if self.num_classes < 2:
            has = {0: "no classes", 1: "1 class"}[self.num_classes]
            raise UserError(
                f"conditional needs images with labels, but {stream.name} has {has}; give a folder with a folder for "
                "each class, or leave conditional out."
            )
        self.options, self.classes = {"num_classes": self.num_classes}, _class_names(stream)

    def samples(self, latent_shape: tuple[int, ...] | None) -> Samples:
        labels = torch.arange(min(self.num_classes, MOST_ROWS)).repeat_interleave(COLUMNS)
        return Samples(draw_latents(len(labels), latent_shape, self.seed), labels)

    def picture(self, images: Tensor) -> Image.Image:
        return image_grid(images, COLUMNS)  # a row a class

    def _turn(self, turn: int) -> Batch:
        images, labels = self.stream.batch_with_labels(turn, device=self.device, dtype=torch.float32)
        return Batch(images, labels=labels)


class Sources(Latents):
    """Images are made of other images.

    Args:
        name: one of ``TASKS``.
        sources: with "pairs", the stream of the images that the real ones are to be made of, in the same order.
    """

    def __init__(
        self, stream: Stream, device: torch.device, seed: int, name: str, sources: Stream | None = None
    ) -> None:
        super().__init__(stream, device, seed)
        self.name, self._sources = name, sources
        if name == "colourise" and stream.channels == 1:
            raise UserError(f"task is colourise, but {stream.name} has grey images; give images with colours.")
        if not stream.resumable:
            raise UserError(
                f"task is {name}, but {stream.name} gives each batch once, and samples need the same again; give a "
                "folder, a tensor or a Dataset."
            )
        channels = sources.channels if sources is not None else 1 if name == "colourise" else stream.channels
        self.options = {"in_channels": channels}

    def samples(self, latent_shape: tuple[int, ...] | None) -> Samples:
        found = []
        while sum(map(len, found)) < TRIPLES:
            found.append(super()._turn(len(found)).real)
        self._real = torch.cat(found)[:TRIPLES].cpu()
        made_of = [self._source(turn, real) for turn, real in enumerate(found)]
        self._shown = torch.cat(made_of)[:TRIPLES].cpu()
        return Samples(self._shown)

    def picture(self, images: Tensor) -> Image.Image:
        """Threes: the source, what is made of it, and the real image."""
        threes = [_with_channels(part, images.shape[1]) for part in (self._shown, images, self._real)]
        return image_grid(torch.stack(threes, 1).flatten(0, 1), 12)

    def _turn(self, turn: int) -> Batch:
        real = super()._turn(turn).real
        return Batch(real, self._source(turn, real))

    def _source(self, turn: int, real: Tensor) -> Tensor:
        if self._sources is not None:
            return self._sources.batch(turn, device=self.device, dtype=torch.float32)
        # A function of the turn, so that a run resumes exactly.
        mixed = np.random.SeedSequence((self.seed, turn)).generate_state(1, np.uint64)
        source = SOURCES[self.name](real, torch.Generator().manual_seed(int(mixed[0]) % 2**63))
        return source.contiguous(memory_format=torch.channels_last)


Task = Latents


def _noisy(real: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a quarter of the range."""
    noise = torch.randn(real.shape, generator=generator).to(real.device, real.dtype)
    return (real + 0.5 * noise).clamp_(-1, 1)


def _grey(real: Tensor, generator: torch.Generator) -> Tensor:
    """The luma of ITU-R BT.601, [N, 1, H, W]."""
    red, green, blue = real[:, :3].unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _with_hole(real: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of half the height and width somewhere in each image is mid-grey."""
    n, _, height, width = real.shape
    inside = []
    for side in (height, width):
        hole = side // 2
        begin = torch.randint(0, side - hole + 1, (n, 1), generator=generator)
        place = torch.arange(side)
        inside.append((place >= begin) & (place < begin + hole))
    mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None].to(real.device)
    return real.masked_fill(mask, 0)


SOURCES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "denoise": _noisy,
    "colourise": _grey,
    "inpaint": _with_hole,
}
PAIRS = "pairs"
TASKS = (*SOURCES, PAIRS)


def numbered(classes: Sequence[str]) -> str:
    """The first classes by number and name, "0 cat, 1 dog", or by the number alone where it is the name."""
    words = [name if name == str(number) else f"{number} {name}" for number, name in enumerate(classes[:MOST_NAMES])]
    return ", ".join(words) + (f", ... ({len(classes)} in all)" if len(classes) > MOST_NAMES else "")


def _num_classes(stream: Stream) -> int:
    images = getattr(stream, "images", None)
    if isinstance(images, ImageSet):
        return 0 if images.labels is None else max(len(images.classes), int(images.labels.max()) + 1)
    return len(_class_names(stream)) or _num_numbered(_dataset(stream))


def _num_numbered(dataset: Any) -> int:
    """By the labels that a TensorDataset, or one like torchvision's, keeps together; 0 where there are none."""
    tensors = getattr(dataset, "tensors", ())
    labels = tensors[1] if len(tensors) > 1 else getattr(dataset, "targets", None)
    if labels is None or getattr(dataset, "target_transform", None) is not None:
        return 0
    numbers = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    return int(numbers.max()) + 1 if numbers.dtype.kind in "iu" and numbers.shape == (len(dataset),) else 0


def _class_names(stream: Stream) -> tuple[str, ...]:
    images = getattr(stream, "images", None)
    return tuple(map(str, getattr(images if isinstance(images, ImageSet) else _dataset(stream), "classes", ())))


def _dataset(stream: Stream) -> Any:
    """That of the caller's own that the batches come from; None where they come from an ImageSet."""
    found = getattr(stream, "dataset", None)
    return getattr(getattr(stream, "loader", None), "dataset", None) if found is None else found


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """Images as they look with so many channels: grey ones repeated, opaque, or their colours alone."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1 and channels >= 3:
        images = images.expand(-1, 3, -1, -1)
    if channels == 4:
        return torch.cat([images[:, :3], torch.ones_like(images[:, :1])], 1)
    return images[:, :channels]
