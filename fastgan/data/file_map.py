"""Memory maps of files of pixels: read as they are needed, and never more of them resident than a fixed amount."""

from __future__ import annotations

import mmap
import os
import warnings

import numpy as np
import torch
from torch import Tensor

__all__ = ["FileMap", "as_tensor"]

RESIDENT = 128 << 20  # bytes of a map that count as this process' memory before they are handed back
NEIGHBOURS = 512 << 10  # bytes that the kernel maps around one that is asked for; about 430 kB were seen


class FileMap:
    """A file, mapped read-only.

    The pages stay in the system's cache, which it takes back as it needs; what this process counts as its own of them
    is handed back now and then, so that its memory does not grow with the set.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises OSError, and ValueError for an empty file."""
        self._path = os.path.abspath(path)
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._touched = 0

    def __reduce__(self) -> tuple:
        return FileMap, (self._path,)

    def array(self, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
        """uint8 of this shape, from byte ``offset`` on. Raises ValueError where the file is too short."""
        return np.frombuffer(self._map, np.uint8, int(np.prod(shape)), offset).reshape(shape)

    def touched(self, rows: int, row_bytes: int) -> None:
        """Told of what is read, of ``rows`` in different places."""
        self._touched += rows * (row_bytes + NEIGHBOURS)
        if self._touched > RESIDENT:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor in the same memory, even where it cannot be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
