"""Whatever a trainer may be given (tensors, arrays, datasets, loaders) as one stream of batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import UserError, counted, warn_once
from .decode import eight_bit
from .image_set import ImageSet, mirror_some
from .loading import load
from .stream import BatchStream, mirror_generator
from .tensors import Range, channels_first, checked_range, from_tensor, guess_range, scale

__all__ = ["CACHES", "Stream", "from_dataset", "stream_of"]

CACHES = ("auto", "memory", "device")
LOOKED_AT = 64  # images of a set, spread evenly, that tell whether all are the same


class Stream(Protocol):
    """Batches of images by step number.

    ``n`` is the number of images, or None where nobody knows; ``resumable`` says whether ``batch(step)`` is a function
    of the step (up to the randomness that a foreign dataset may have of its own).
    """

    name: str
    n: int | None
    batch_size: int | None
    channels: int
    image_size: tuple[int, int]
    resumable: bool

    def batch(
        self, step: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """[B, C, H, W] in [-1, 1], channels_last."""
        ...

    def batch_with_labels(
        self, step: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        """The same batch, and its labels, int64 [B] on the same device, or None where the images have none."""
        ...


def from_dataset(dataset: Dataset, *, value_range: Range | None = None, name: str | None = None) -> ImageSet:
    """An :class:`ImageSet` of every item of a map-style dataset, read once (so that random transforms are frozen).

    Items are images, or tuples of an image and a label; an image is a tensor, an array or a PIL image, all of one size.
    Shapes and values are those of :func:`from_tensor`, without the first dimension.
    """
    items = [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]
    if not items:
        raise UserError(f"the dataset {type(dataset).__name__} is empty; give one with images")
    return from_tensor(_stack(items), _labels_of(items), value_range=value_range, name=name or _name_of(dataset))


def stream_of(
    data: Any,
    batch_size: int,
    seed: int = 0,
    *,
    mirror: bool = False,
    value_range: Range | None = None,
    cache: str = "auto",
    device: torch.device | str = "cpu",
) -> Stream:
    """A stream of batches of whatever ``data`` is.

    - an :class:`ImageSet`, or what :func:`load` takes (a folder, "digits"), or what :func:`from_tensor` takes:
      uint8 in memory or mapped, batches by :class:`BatchStream`;
    - a map-style ``Dataset``: its items are asked for at every step, so that its transforms stay random;
    - a ``DataLoader``: iterated again and again as it is, ``batch_size`` and ``seed`` are its own; not resumable;
    - an ``IterableDataset``: the same through a ``DataLoader`` of ``batch_size`` that drops a ragged end.

    Values are those of :func:`from_tensor`; which range it is, the first images decide, or ``value_range`` does (the
    values of black and white).

    ``cache`` says where an :class:`ImageSet` is kept: "auto" leaves it where it is (a pack on the disk, any other in
    memory), "memory" copies it into memory, "device" into the memory of ``device``.

    Every batch has ``batch_size`` images. Where a set has fewer, each batch holds images several times; this, and a set
    whose images are all the same, is told in one FastganWarning.

    Raises:
        UserError: for any other type, for an empty set, for values outside of the range, and for a ``cache`` that the
            data cannot have or that does not fit.
    """
    if cache not in CACHES:
        raise UserError(f"cache must be one of {', '.join(CACHES)}, but it is {cache!r}; give one of them")
    if isinstance(data, (str, os.PathLike)):
        data = load(data)
    elif isinstance(data, (Tensor, np.ndarray)):
        data = from_tensor(data, value_range=value_range)
    if isinstance(data, ImageSet):
        _warn_of_sameness(data)
        data = data if cache == "auto" else data.cached(device if cache == "device" else "cpu")
        return _ImageStream(data, batch_size, seed, mirror)
    if cache != "auto":
        raise UserError(
            f"cache is {cache!r}, but a {type(data).__name__} gives its images itself; leave it out, or give an "
            f"ImageSet"
        )
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=batch_size, drop_last=True)
    if isinstance(data, DataLoader):
        return _LoaderStream(data, seed, mirror, value_range)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping):
        return _DatasetStream(data, batch_size, seed, mirror, value_range)
    raise UserError(
        f"data must be 'digits', a folder, an ImageSet, a tensor, an array, a Dataset or a DataLoader, "
        f"but it is a {type(data).__name__}; give one of them"
    )


class _ImageStream:
    resumable = True

    def __init__(self, images: ImageSet, batch_size: int, seed: int, mirror: bool) -> None:
        self.images, self.stream, self.mirror = images, BatchStream(len(images), batch_size, seed), mirror
        self.name, self.n, self.batch_size = images.name, len(images), batch_size
        _warn_of_repetition(self.name, self.n, batch_size)
        self.channels, self.image_size = images.channels, images.image_size

    def batch(self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        mirror = mirror_generator(self.stream.seed, step) if self.mirror else None
        return self.images.batch(self.stream.indices(step), device=device, dtype=dtype, mirror=mirror)

    def batch_with_labels(
        self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        images, labels = self.batch(step, device=device, dtype=dtype), self.images.labels
        return images, None if labels is None else labels[self.stream.indices(step)].to(images.device)


class _FetchedStream:
    """Batches as they come from elsewhere: checked, scaled, and mirrored by the step's own generator."""

    def __init__(self, name: str, probe: Tensor, seed: int, mirror: bool, value_range: Range | None) -> None:
        probe = channels_first(probe)
        self.name, self.seed, self.mirror = name, seed, mirror
        self.channels, self.image_size = probe.shape[1], (probe.shape[2], probe.shape[3])
        self._range = checked_range(value_range) or guess_range(probe)

    def _fetch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """The images of a step as they come, and their labels."""
        raise NotImplementedError

    def batch(self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._finish(self._fetch(step)[0], step, device, dtype)

    def batch_with_labels(
        self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        images, labels = self._fetch(step)
        images = self._finish(images, step, device, dtype)
        return images, None if labels is None else labels.to(images.device)

    def _finish(self, images: Tensor, step: int, device: Any, dtype: torch.dtype) -> Tensor:
        images = channels_first(images)
        if images.shape[1:] != (self.channels, *self.image_size):
            raise UserError(
                f"the batch of step {step} is {list(images.shape)}, but the first images of {self.name} were "
                f"{[self.channels, *self.image_size]}; give images of one size and number of channels"
            )
        images = scale(images, self._range).to(device, dtype, memory_format=torch.channels_last)
        return mirror_some(images, mirror_generator(self.seed, step)) if self.mirror else images


class _DatasetStream(_FetchedStream):
    resumable = True

    def __init__(
        self, dataset: Sequence[Any], batch_size: int, seed: int, mirror: bool, value_range: Range | None
    ) -> None:
        self.dataset, self.n, self.batch_size = dataset, len(dataset), batch_size
        self.stream = BatchStream(self.n, batch_size, seed)
        probe = _stack([dataset[index] for index in range(min(self.n, 64))])
        super().__init__(_name_of(dataset), probe, seed, mirror, value_range)
        _warn_of_repetition(self.name, self.n, batch_size)

    def _fetch(self, step: int) -> tuple[Tensor, Tensor | None]:
        items = [self.dataset[index] for index in self.stream.indices(step).tolist()]
        return _stack(items), _labels_of(items)


class _LoaderStream(_FetchedStream):
    resumable = False

    def __init__(self, loader: DataLoader, seed: int, mirror: bool, value_range: Range | None) -> None:
        self.loader, self.batch_size = loader, loader.batch_size
        self.n = None if isinstance(loader.dataset, IterableDataset) else len(loader.dataset)  # type: ignore[arg-type]
        self._batches = self._forever()
        self._first: Any = next(self._batches)
        super().__init__(_name_of(loader.dataset), _image_of(self._first), seed, mirror, value_range)

    def _forever(self) -> Iterator[Any]:
        while True:
            count = 0
            for count, batch in enumerate(self.loader, 1):  # noqa: B007
                yield batch
            if count == 0:
                raise UserError(f"the loader of {_name_of(self.loader.dataset)} gives no batch; give one with images")

    def _fetch(self, step: int) -> tuple[Tensor, Tensor | None]:
        batch, self._first = self._first if self._first is not None else next(self._batches), None
        labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
        return _image_of(batch), labels.long() if _is_whole(labels) and labels.dim() == 1 else None


def _image_of(item: Any) -> Tensor:
    """The image (or the batch of them) of a dataset's item, which may be a tuple that starts with it."""
    image = item[0] if isinstance(item, (tuple, list)) else item
    if isinstance(image, Image.Image):
        image = eight_bit(image)
    try:
        return image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except TypeError:
        raise UserError(
            f"the items of a dataset must be images, or tuples that start with one, but one has a "
            f"{type(image).__name__} there; give tensors, arrays or PIL images"
        ) from None


def _labels_of(items: Sequence[Any]) -> Tensor | None:
    """int64 [B] where the second part of every item is a whole number."""
    labels = [item[1] for item in items if isinstance(item, (tuple, list)) and len(item) > 1]
    numbered = [isinstance(label, (int, np.integer)) or (_is_whole(label) and label.dim() == 0) for label in labels]
    return torch.tensor([int(label) for label in labels]) if len(labels) == len(items) and all(numbered) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())


def _warn_of_sameness(images: ImageSet) -> None:
    """Of two or more images with not one different pixel, as far as a sample of them shows."""
    n = len(images)
    sample = images.images[torch.linspace(0, n - 1, min(n, LOOKED_AT), dtype=torch.float64).long()]
    if n > 1 and bool((sample == sample[:1]).all()):
        warn_once(
            f"same images {images.source} {n}",
            f"all {n:,} images of {images.name} are the same, so that a generator can learn only that one; check "
            f"{images.source}",
        )


def _warn_of_repetition(name: str, n: int, batch_size: int) -> None:
    if n < batch_size:
        warn_once(
            f"few images {name} {n} {batch_size}",
            f"{name} has {counted(n, 'image')}, fewer than the batch_size of {batch_size:,}, so that every batch holds "
            f"images several times; give more images or a smaller batch_size",
        )


def _name_of(dataset: Any) -> str:
    return type(dataset).__name__.lower()


def _stack(items: Sequence[Any]) -> Tensor:
    images = [_image_of(item) for item in items]
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            raise UserError(
                f"the images of a dataset must be of one shape, but one is {list(images[0].shape)} and another, "
                f"{index} further on, is {list(image.shape)}; resize them in the dataset"
            )
    return torch.stack(images)
