"""Files of arrays: NumPy's ``.npy`` and ``.npz``, and the IDX format that MNIST is published in."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .collection import ArrayCollection, printable, reason_of
from .file_map import FileMap, as_tensor
from .tensors import from_tensor

__all__ = ["IDX_TYPES", "open_idx", "open_npy", "open_npz"]

IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LABELS = ("labels", "y")
NPZ_NAMES = {"images": LABELS, "x": LABELS, "x_train": ("y_train",), "arr_0": ("arr_1",)}  # of images, of their labels
MOST_CLASSES = 1 << 16
DAMAGED = (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError)


def open_npy(path: Path) -> ArrayCollection:
    """The images of a ``.npy`` file, as :func:`fastgan.data.from_tensor` reads them; uint8 ones are memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise _damaged(path, error) from None
    mapping = None
    if array.dtype == np.uint8 and array.flags.c_contiguous and array.size:
        mapping = FileMap(path)
        array = mapping.array(array.shape, array.offset)
    return _collection(path, array, None, mapping)


def open_npz(path: Path) -> ArrayCollection:
    """The images of a ``.npz`` file and, where there are any, their labels.

    Which arrays these are, their names say: ``images`` and ``labels`` (or ``y``), ``x`` and ``y``, ``x_train`` and
    ``y_train``, ``arr_0`` and ``arr_1``; or else the images are the only array of three or four dimensions.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGED as error:
        raise _damaged(path, error) from None
    known = [name for name in NPZ_NAMES if name in arrays]
    stacks = known[:1] or [name for name, array in arrays.items() if array.ndim in (3, 4)]
    if len(stacks) != 1:
        held = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise UserError(
            f"{printable(path)} holds {held}, and it is not clear which are the images; name the arrays images and "
            f"labels"
        )
    labels = [arrays[name] for name in NPZ_NAMES.get(stacks[0], LABELS) if name in arrays]
    return _collection(path, arrays[stacks[0]], labels[0] if labels else None)


def open_idx(path: Path) -> ArrayCollection:
    """The images of an IDX file, plain or ``.gz``; its labels, where the file that MNIST names so lies beside it.

    Format: two bytes 0, the type, the number of dimensions, each dimension as a big-endian 32-bit number, the values
    (http://yann.lecun.com/exdb/mnist/).
    """
    array, mapping = _read_idx(path)
    if array.ndim == 1:
        raise UserError(f"{printable(path)} holds {len(array):,} labels, not images; give the file of the images")
    beside = _labels_file(path)
    return _collection(path, array, None if beside is None else _read_idx(beside)[0], mapping)


def _read_idx(path: Path) -> tuple[np.ndarray, FileMap | None]:
    try:
        with open(path, "rb") as file:
            content = file.read(4 + 4 * 255)
        zipped = content[:2] == b"\x1f\x8b"
        content = gzip.decompress(path.read_bytes()) if zipped else content
        if content[:2] != b"\0\0" or len(content) < 4 or content[2] not in IDX_TYPES:
            raise ValueError("it does not begin as an IDX file does")
        dtype, dimensions = np.dtype(IDX_TYPES[content[2]]), content[3]
        offset = 4 + 4 * dimensions
        shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
        needed, found = offset + int(np.prod(shape)) * dtype.itemsize, len(content) if zipped else path.stat().st_size
        if found != needed:
            raise ValueError(f"it has {found:,} bytes, where {needed:,} belong to its shape {list(shape)}")
        if not zipped and dtype == np.uint8 and found > offset:
            mapping = FileMap(path)
            return mapping.array(shape, offset), mapping
        content = content if zipped else path.read_bytes()
        return np.frombuffer(content, dtype, offset=offset).reshape(shape).astype(dtype.newbyteorder("=")), None
    except DAMAGED as error:
        raise _damaged(path, error) from None


def _labels_file(path: Path) -> Path | None:
    """``train-labels-idx1-ubyte`` beside ``train-images-idx3-ubyte``, either of them with or without ``.gz``."""
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    candidates = [path.with_name(name + suffix) for suffix in ("", ".gz")]
    return next((file for file in candidates if file.is_file() and file.name != path.name), None)


def _collection(path: Path, images: np.ndarray, labels: Any, mapping: FileMap | None = None) -> ArrayCollection:
    try:
        found = from_tensor(as_tensor(images) if images.dtype == np.uint8 else images)
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from None
    return ArrayCollection(
        found.images.permute(0, 2, 3, 1).numpy(),
        *_labels(path, labels, len(found)),
        name=printable(path.name).split(".")[0] or "images",
        source=printable(path),
        mapping=mapping,
        origin=path,
    )


def _labels(path: Path, labels: np.ndarray | None, n: int) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Whole numbers from 0 on, whose classes are called by them."""
    if labels is None:
        return None, ()
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (n,) or flat.dtype.kind not in "iu" or not 0 <= flat.min() <= flat.max() < MOST_CLASSES:
        raise UserError(
            f"the labels of {printable(path)} must be {n:,} whole numbers from 0 to {MOST_CLASSES - 1:,}, one an "
            f"image, but they are {labels.dtype} {list(labels.shape)}; mend them or leave them out"
        )
    return torch.from_numpy(flat.astype(np.int64)), tuple(map(str, range(int(flat.max()) + 1)))


def _damaged(path: Path, error: Exception) -> UserError:
    if "object" in str(error).lower():  # which would have to be unpickled
        return UserError(
            f"{printable(path)} holds an array of Python objects; save images of one shape as an array of uint8 "
            f"[N, H, W, C]"
        )
    return UserError(f"{printable(path)} cannot be read ({reason_of(error)}); fetch or make it anew")
