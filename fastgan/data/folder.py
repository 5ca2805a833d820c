"""A folder of images, decoded once in parallel into an :class:`ImageSet`."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import FastganWarning, UserError
from .decode import SUFFIXES, read_image
from .image_set import ImageSet, allocate

__all__ = ["DataNotFound", "load_folder"]

Skipped = list[tuple[str, str]]  # (file relative to the folder, reason)


class DataNotFound(UserError, FileNotFoundError):
    """There is no such folder, or it holds no images."""


def load_folder(
    folder: Path,
    image_size: tuple[int, int],
    channels: int | None,
    resize: str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Every readable image under ``folder``, in the order of the relative paths; ``channels`` None is "auto".

    See :func:`fastgan.data.load`, which checks the arguments.
    """
    files, skipped = _find(folder)
    buffer = allocate(len(files), image_size, channels or 3)
    reasons = _decode_all(folder, files, buffer, resize, workers, progress)
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    skipped += [(_printable(file), reason) for file, reason in zip(files, reasons, strict=True) if reason is not None]
    if not kept:
        raise UserError(
            f"none of the {len(files)} image files in {_printable(folder)} can be read ({_listed(skipped[:3])}); "
            f"give a folder with sound images"
        )
    if skipped:
        message = f"{_printable(folder)}: left out what cannot be read: {_listed(skipped)}"
        warnings.warn(message, FastganWarning, stacklevel=3)

    pixels = buffer if len(kept) == len(files) else buffer[kept]
    if channels is None and all(_is_grey(image) for image in pixels):
        pixels = np.ascontiguousarray(pixels[..., :1])
    labels, classes = _labels([files[index] for index in kept])
    return ImageSet(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=labels,
        classes=classes,
        name=_printable(folder.resolve().name) or "images",
        source=_printable(folder),
        skipped=tuple(skipped),
    )


def _find(folder: Path) -> tuple[list[PurePath], Skipped]:
    """Paths of image files relative to ``folder``, sorted, and the subfolders that cannot be read."""
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except (OSError, ValueError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({_reason(error)})"
        raise DataNotFound(
            f"the folder {_printable(folder)} {problem}; give a folder of images, or 'digits' for the embedded digits"
        ) from None
    if not is_folder:
        raise UserError(f"{_printable(folder)} is a file, not a folder; give the folder that holds the images")
    found, unreadable, others, visited = [], [], 0, set()

    def note(error: OSError) -> None:
        unreadable.append((_printable(os.path.relpath(error.filename, folder)), error.strerror))

    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(parent)
        # A link may lead back up. Hidden names are thumbnails, caches and the like.
        subfolders[:] = [] if real in visited else [name for name in subfolders if not name.startswith(".")]
        names = [] if real in visited else [name for name in names if not name.startswith(".")]
        visited.add(real)
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        others += len(names) - len(images)
        found += [PurePath(parent, name).relative_to(folder) for name in images]
    if not found:
        what = f"{others} files, none of them an image" if others else "no files"
        what += f", and folders that cannot be read ({_listed(unreadable)})" if unreadable else ""
        raise DataNotFound(
            f"the folder {_printable(folder)} holds {what}; give one with files ending in {', '.join(SUFFIXES)}"
        )
    return sorted(found, key=lambda file: file.parts), unreadable


def _decode_all(
    folder: Path,
    files: list[PurePath],
    buffer: np.ndarray,
    resize: str,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[str | None]:
    """Fills ``buffer`` [N, H, W, C]; for each file None, or the reason why its row is not filled."""
    Image.init()  # registers Pillow's decoders, which is not meant to happen in several threads at once
    _, height, width, channels = buffer.shape

    def decode(index: int) -> str | None:
        try:
            buffer[index] = read_image(folder / files[index], (height, width), channels, resize)
        except Exception as error:  # damaged files raise nearly anything; every one is reported by name
            return _reason(error)
        return None

    reasons = []
    pool = ThreadPoolExecutor(workers or _usable_cpus())
    try:
        for reason in pool.map(decode, range(len(files))):
            reasons.append(reason)
            if progress is not None:
                progress(len(reasons), len(files))
    finally:  # an interrupt does not wait for what has not begun
        pool.shutdown(cancel_futures=True)
    return reasons


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def _printable(path: str | os.PathLike[str]) -> str:
    """The path with escapes for bytes that are no text, over which printing would fail."""
    return os.fspath(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_grey(pixels: np.ndarray) -> bool:
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return np.array_equal(red, green) and np.array_equal(red, blue)


def _labels(files: list[PurePath]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Classes are the top-level subfolders, where there are at least two and no image lies outside of them."""
    tops = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    if None in tops or len(set(tops)) < 2:
        return None, ()
    classes = tuple(sorted(set(tops)))
    number = {name: index for index, name in enumerate(classes)}
    return torch.tensor([number[top] for top in tops]), classes


def _listed(skipped: Skipped) -> str:
    return "; ".join(f"{file} ({reason})" for file, reason in skipped)
