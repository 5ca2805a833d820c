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

from ..errors import UserError
from .decode import eight_bit
from .image_set import ImageSet, mirror_some, to_float, to_uint8
from .loading import load
from .stream import BatchStream, mirror_generator

__all__ = ["Stream", "from_dataset", "from_tensor", "stream_of"]

Range = tuple[float, float]
OVERSHOOT = 0.05  # of the range: what resampling filters add at edges is cut off, what is further out is an error


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


def from_tensor(
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | None = None,
    *,
    value_range: Range | None = None,
    name: str = "tensor",
) -> ImageSet:
    """An :class:`ImageSet` of a tensor or array [N, C, H, W], [N, H, W, C] or [N, H, W] with C 1, 3 or 4.

    Where both readings are possible, dimension 1 is C. The values of black and white are ``value_range``; by default 0
    and 255 for integers, 0 and 1 for booleans and for floats without a value below -0.05, -1 and 1 for floats with one.
    Values are rounded to 8 bits; uint8 is taken as it is, without a copy. Up to 5% of the range beyond its ends, which
    resampling filters add, are cut off.

    Raises:
        UserError: for another shape, or where a value lies outside of the range.
    """
    images = _channels_first(_numbers(images))
    value_range = _checked_range(value_range) or _guess_range(images)
    if images.dtype != torch.uint8 or value_range != (0.0, 255.0):
        images = to_uint8(_scale(images, value_range))
    return ImageSet(
        images=images,
        labels=None if labels is None else torch.as_tensor(labels, dtype=torch.int64),
        name=name,
        source=f"a tensor of {len(images)} images",
    )


def from_dataset(dataset: Dataset, *, value_range: Range | None = None, name: str | None = None) -> ImageSet:
    """An :class:`ImageSet` of every item of a map-style dataset, read once (so that random transforms are frozen).

    Items are images, or tuples of an image and a label; an image is a tensor, an array or a PIL image, all of one size.
    Shapes and values are those of :func:`from_tensor`, without the first dimension.
    """
    items = [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]
    if not items:
        raise UserError(f"the dataset {type(dataset).__name__} is empty; give one with images")
    labels = [item[1] for item in items if isinstance(item, (tuple, list)) and len(item) > 1]
    numbered = len(labels) == len(items) and all(isinstance(label, (int, np.integer)) for label in labels)
    return from_tensor(
        _stack(items), np.array(labels) if numbered else None, value_range=value_range, name=name or _name_of(dataset)
    )


def stream_of(
    data: Any, batch_size: int, seed: int = 0, *, mirror: bool = False, value_range: Range | None = None
) -> Stream:
    """A stream of batches of whatever ``data`` is.

    - an :class:`ImageSet`, or what :func:`load` takes (a folder, "digits"), or what :func:`from_tensor` takes:
      uint8 in memory, batches by :class:`BatchStream`;
    - a map-style ``Dataset``: its items are asked for at every step, so that its transforms stay random;
    - a ``DataLoader``: iterated again and again as it is, ``batch_size`` and ``seed`` are its own; not resumable;
    - an ``IterableDataset``: the same through a ``DataLoader`` of ``batch_size`` that drops a ragged end.

    Values are those of :func:`from_tensor`; which range it is, the first images decide, or ``value_range`` does (the
    values of black and white).

    Raises:
        UserError: for any other type, for an empty set, and for values outside of the range.
    """
    if isinstance(data, (str, os.PathLike)):
        data = load(data)
    elif isinstance(data, (Tensor, np.ndarray)):
        data = from_tensor(data, value_range=value_range)
    if isinstance(data, ImageSet):
        return _ImageStream(data, batch_size, seed, mirror)
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
        self.channels, self.image_size = images.channels, images.image_size

    def batch(self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        mirror = mirror_generator(self.stream.seed, step) if self.mirror else None
        return self.images.batch(self.stream.indices(step), device=device, dtype=dtype, mirror=mirror)


class _FetchedStream:
    """Batches as they come from elsewhere: checked, scaled, and mirrored by the step's own generator."""

    def __init__(self, name: str, probe: Tensor, seed: int, mirror: bool, value_range: Range | None) -> None:
        probe = _channels_first(probe)
        self.name, self.seed, self.mirror = name, seed, mirror
        self.channels, self.image_size = probe.shape[1], (probe.shape[2], probe.shape[3])
        self._range = _checked_range(value_range) or _guess_range(probe)

    def _finish(self, images: Tensor, step: int, device: Any, dtype: torch.dtype) -> Tensor:
        images = _channels_first(images)
        if images.shape[1:] != (self.channels, *self.image_size):
            raise UserError(
                f"the batch of step {step} is {list(images.shape)}, but the first images of {self.name} were "
                f"{[self.channels, *self.image_size]}; give images of one size and number of channels"
            )
        images = _scale(images, self._range).to(device, dtype, memory_format=torch.channels_last)
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

    def batch(self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        images = _stack([self.dataset[index] for index in self.stream.indices(step).tolist()])
        return self._finish(images, step, device, dtype)


class _LoaderStream(_FetchedStream):
    resumable = False

    def __init__(self, loader: DataLoader, seed: int, mirror: bool, value_range: Range | None) -> None:
        self.loader, self.batch_size = loader, loader.batch_size
        self.n = None if isinstance(loader.dataset, IterableDataset) else len(loader.dataset)  # type: ignore[arg-type]
        self._batches = self._forever()
        self._first: Tensor | None = next(self._batches)
        super().__init__(_name_of(loader.dataset), self._first, seed, mirror, value_range)

    def _forever(self) -> Iterator[Tensor]:
        while True:
            count = 0
            for count, batch in enumerate(self.loader, 1):  # noqa: B007
                yield _image_of(batch)
            if count == 0:
                raise UserError(f"the loader of {_name_of(self.loader.dataset)} gives no batch; give one with images")

    def batch(self, step: int, *, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        images, self._first = self._first if self._first is not None else next(self._batches), None
        return self._finish(images, step, device, dtype)


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


def _channels_first(images: Tensor) -> Tensor:
    shape = list(images.shape)
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[1] not in (1, 3, 4):
        images = images.permute(0, 3, 1, 2)
    if images.dim() != 4 or images.shape[1] not in (1, 3, 4):
        raise UserError(
            f"images must be [N, C, H, W], [N, H, W, C] or [N, H, W] with C 1, 3 or 4, but they are {shape}"
        )
    if len(images) == 0:
        raise UserError(f"images must hold at least one image, but their shape is {shape}; give more")
    return images


def _numbers(images: Any) -> Tensor:
    """A tensor or array as a tensor of real numbers, in the same memory where torch can have it."""
    if isinstance(images, np.ndarray) and min(images.strides, default=0) < 0:
        images = images.copy()  # torch has no negative strides
    try:
        tensor = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.is_complex():
        kind = f"{type(images).__name__} of {images.dtype}" if hasattr(images, "dtype") else type(images).__name__
        raise UserError(f"images must be a tensor or an array of real numbers, but they are a {kind}; give one of them")
    return tensor


def _checked_range(value_range: Range | None) -> Range | None:
    if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
        raise UserError(
            f"value_range must be the values of black and white, the smaller one first, but it is {value_range!r}; "
            f"give say (0, 255)"
        )
    return value_range


def _guess_range(images: Tensor) -> Range:
    if not images.is_floating_point():
        return 0.0, 1.0 if images.dtype == torch.bool else 255.0
    return (-1.0, 1.0) if images.amin() < -OVERSHOOT else (0.0, 1.0)


def _scale(images: Tensor, value_range: Range) -> Tensor:
    """Values of ``value_range`` as floats in [-1, 1]."""
    black, white = value_range
    if images.dtype == torch.uint8 and (black, white) == (0.0, 255.0):
        return to_float(images)
    wide = images if images.dtype == torch.float64 else images.to(torch.float32)
    low, high = wide.amin().item(), wide.amax().item()
    slack = OVERSHOOT * (white - black)
    if not (black - slack <= low and high <= white + slack):  # written so that NaN fails
        raise UserError(
            f"images must have values from {black:g} to {white:g}, but they have {low:g} to {high:g}; "
            f"scale them, or give their range as value_range"
        )
    return ((wide - black) * (2 / (white - black)) - 1).clamp_(-1, 1)
