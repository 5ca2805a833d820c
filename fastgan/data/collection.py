"""Collections of images that are read one by one at any size, and how all of one become an :class:`ImageSet`."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import FastganWarning, UserError
from .decode import pixels_of
from .file_map import FileMap, as_tensor
from .image_set import ImageSet, allocate

__all__ = ["ArrayCollection", "Collection", "FileCollection", "Labels", "Progress", "Skipped", "read_all"]

Progress = Callable[[int, int], None]  # (images read, images in all)
Skipped = list[tuple[str, str]]  # (file, reason)
Labels = tuple[Tensor | None, tuple[str, ...]]  # int64, one an image, and the names of the classes


class Collection:
    """Images of whatever origin, by number.

    Attributes:
        name, source: as those of an :class:`ImageSet`.
        image_size, channels: what all of them have, or None where each has its own.
        skipped: what could not even be listed.
    """

    name: str
    source: str
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    skipped: Skipped

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
        """uint8 [height, width, channels]; raises nearly anything where the image is damaged."""
        raise NotImplementedError

    def file(self, index: int) -> str:
        """What an image is called, for people to read."""
        return f"image {index}"

    def labels(self, kept: Sequence[int]) -> Labels:
        """The labels of the images with these numbers."""
        return None, ()

    def whole(self, image_size: tuple[int, int], channels: int) -> ImageSet | None:
        """All images at once, where they have this size and these channels already."""
        return None

    def stamp(self) -> str:
        """A text that changes where the images do, as far as that can be seen without reading them."""
        raise NotImplementedError


class FileCollection(Collection):
    """Image files by their relative paths, of which the top-level folders are the classes."""

    def __init__(self, name: str, source: str, files: list[PurePath], skipped: Skipped) -> None:
        self.name, self.source, self.files, self.skipped = name, source, files, skipped

    def __len__(self) -> int:
        return len(self.files)

    def file(self, index: int) -> str:
        return printable(self.files[index])

    def labels(self, kept: Sequence[int]) -> Labels:
        """Classes are the top-level folders, where there are at least two and no image lies outside of them."""
        files = [self.files[index] for index in kept]
        tops = [printable(file.parts[0]) if len(file.parts) > 1 else None for file in files]
        if None in tops or len(set(tops)) < 2:
            return None, ()
        classes = tuple(sorted(set(tops)))
        number = {name: index for index, name in enumerate(classes)}
        return torch.tensor([number[top] for top in tops]), classes


class ArrayCollection(Collection):
    """Images of an array, uint8 [N, H, W, C].

    ``border`` is what "pad" fills up with; ``mapping`` is the map that the array lies in, if any; ``origin`` the file
    that the images come from.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        *,
        name: str,
        source: str,
        border: str | None = None,
        mapping: FileMap | None = None,
        origin: str | os.PathLike[str] | None = None,
    ) -> None:
        self.images, self._labels, self._classes, self.skipped = images, labels, classes, []
        self.name, self.source, self.image_size, self.channels = name, source, images.shape[1:3], images.shape[3]
        self._border, self._mapping, self._origin = border, mapping, origin

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
        image = self.images[index]
        if image.shape == (*image_size, channels):
            return image
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if self.channels == 1 else image))
        return pixels_of(picture, image_size, channels, resize, self._border)

    def labels(self, kept: Sequence[int]) -> Labels:
        return None if self._labels is None else self._labels[torch.as_tensor(kept)], self._classes

    def whole(self, image_size: tuple[int, int], channels: int) -> ImageSet | None:
        if self.images.shape[1:] != (*image_size, channels):
            return None
        images = as_tensor(self.images).permute(0, 3, 1, 2)
        return ImageSet(images, self._labels, self._classes, self.name, self.source, mapping=self._mapping)

    def stamp(self) -> str:
        state = "" if self._origin is None else file_state(self._origin)
        return f"{self.name} {list(self.images.shape)} {state}"


def read_all(
    collection: Collection,
    image_size: tuple[int, int],
    channels: int | None,
    resize: str,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Every image that can be read, in order; ``channels`` None is "auto".

    See :func:`fastgan.data.load`, which checks the arguments.
    """
    wanted = channels or stored_channels(collection)
    whole = collection.whole(image_size, wanted)
    if whole is not None:
        return whole
    buffer = allocate(len(collection), image_size, wanted)
    reasons = []
    with readers(workers) as pool:
        for reason in read_rows(collection, 0, buffer, resize, pool):
            reasons.append(reason)
            if progress is not None:
                progress(len(reasons), len(collection))
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    skipped = collection.skipped + [
        (collection.file(index), reason) for index, reason in enumerate(reasons) if reason is not None
    ]
    tell_skipped(collection, len(kept), skipped)

    pixels = buffer if len(kept) == len(buffer) else buffer[kept]
    if channels is None and collection.channels is None and all(is_grey(image) for image in pixels):
        pixels = np.ascontiguousarray(pixels[..., :1])
    labels, classes = collection.labels(kept)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return ImageSet(images, labels, classes, collection.name, collection.source, tuple(skipped))


def stored_channels(collection: Collection) -> int:
    """With how many channels to read where nobody asks for a number: files have three until all are known to be grey,
    transparency is composited."""
    return 1 if collection.channels == 1 else 3


@contextmanager
def readers(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode images; by default one for every usable CPU."""
    Image.init()  # registers Pillow's decoders, which is not meant to happen in several threads at once
    pool = ThreadPoolExecutor(workers or _usable_cpus())
    try:
        yield pool
    finally:  # an interrupt does not wait for what has not begun
        pool.shutdown(cancel_futures=True)


def read_rows(
    collection: Collection, first: int, buffer: np.ndarray, resize: str, pool: ThreadPoolExecutor
) -> Iterator[str | None]:
    """Fills ``buffer`` [n, H, W, C] with the images from ``first`` on; gives for each None, or why it is not filled."""
    _, height, width, channels = buffer.shape

    def read(row: int) -> str | None:
        try:
            buffer[row] = collection.read(first + row, (height, width), channels, resize)
        except Exception as error:  # damaged files raise nearly anything; every one is reported by name
            return reason_of(error)
        return None

    return pool.map(read, range(len(buffer)))


def tell_skipped(collection: Collection, kept: int, skipped: Sequence[tuple[str, str]]) -> None:
    """One warning that names every file that is left out; UserError where no image is left."""
    if not kept:
        raise UserError(
            f"none of the {len(collection)} image files in {collection.source} can be read ({listed(skipped[:3])}); "
            f"give one with sound images"
        )
    if skipped:
        message = f"{collection.source}: left out what cannot be read: {listed(skipped)}"
        warnings.warn(message, FastganWarning, stacklevel=4)


def is_grey(pixels: np.ndarray) -> bool:
    """Whether red, green and blue are equal everywhere in [..., 3]."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return np.array_equal(red, green) and np.array_equal(red, blue)


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def listed(skipped: Sequence[tuple[str, str]]) -> str:
    """Files and reasons, for people to read."""
    return "; ".join(f"{file} ({reason})" for file, reason in skipped)


def printable(path: str | os.PathLike[str]) -> str:
    """The path with escapes for bytes that are no text, over which printing would fail."""
    return os.fspath(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def file_state(path: str | os.PathLike[str]) -> str:
    """Size and time of last change, or that there is no such file."""
    try:
        status = os.stat(path)
    except OSError as error:
        return reason_of(error)
    return f"{status.st_size} {status.st_mtime_ns}"


def digest(lines: Iterator[str]) -> str:
    """Of a list of texts: 64 hexadecimal digits."""
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode(errors="surrogateescape") + b"\n")
    return found.hexdigest()


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
