"""The one way in: what to load, at which size, with how many channels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .archive import open_archive, open_zip
from .arrays import IDX_TYPES, open_idx, open_npy, open_npz
from .collection import Collection, FileCollection, Progress, printable, read_all
from .decode import RESIZE_MODES
from .digits import open_digits
from .emoji import open_emoji
from .folder import open_folder
from .image_set import ImageSet
from .libraries import LIBRARIES, open_library
from .packed import is_pack, load_pack, pack_size

__all__ = ["load", "native_size"]

DEFAULT_SIZE = 64
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
EMBEDDED = {"digits": open_digits, "emoji": lambda image_size: open_emoji()}


def load(
    spec: str | os.PathLike[str] = "digits",
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | str = "auto",
    resize: str = "crop",
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Loads images as uint8: decoded once into memory, or memory-mapped where the file has them as they are wanted.

    Args:
        spec: one of

            - "digits": the 5,000 embedded MNIST digits; "emoji": the 1,871 embedded emoji. (``"./digits"`` or a
              ``Path`` is a folder of that name.)
            - a folder, or a zip file: every PNG, JPEG, WebP, GIF (first frame), BMP, TIFF and PPM file in it and its
              subfolders; hidden files and folders are not. JPEGs are turned upright as their EXIF data says. Where the
              images lie in two or more top-level subfolders (of a zip file, below the folder that all of them share),
              these are their classes.
            - a folder that ``fastgan pack`` made: memory-mapped, at the size and with the channels it was made for.
            - a ``.npy`` or ``.npz`` file, of the shapes and values that :func:`from_tensor` takes; a ``.npz`` file may
              have the arrays ``images`` and ``labels``, ``x`` and ``y``, ``x_train`` and ``y_train``.
            - an IDX file, as MNIST has them, also ``.gz``; its labels are found beside it by MNIST's names.
            - "torchvision:NAME" or "hf:NAME": the training part of that dataset of torchvision or Hugging Face, where
              the library (``torchvision`` or ``datasets``) is installed; downloaded where it is not there yet.
        image_size: pixels, one number for a square or (height, width). Default: 32 for the digits (28 is their native
            size; 32 adds a black border of 2), that of the array or the pack, 64 for all others.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA). "auto" is 1 for arrays of one channel, and for files where red, green
            and blue are equal in every image, otherwise 3. Transparency is composited on white unless 4 channels are
            asked for. 16-bit grey is scaled to 8 bits; 32-bit grey likewise (floats in [0, 1] and integers to 65535 by
            that scale, any other image from its minimum to its maximum).
        resize: how another shape becomes ``image_size``, always antialiased: "crop" scales to cover it and cuts what
            stands out on both sides; "pad" scales to fit into it and fills up with black (white for an image composited
            on white, transparent with 4 channels); "stretch" changes the proportions.
        workers: threads that decode; default: one for every usable CPU.
        progress: called with (images read, images in all) as they are.

    Raises:
        DataNotFound: (a UserError and a FileNotFoundError) nothing of that name, or no images in it.
        UserError: (a ValueError) another kind of file, a damaged one, images none of which can be read, a pack of
            another size or other channels, a library that is missing, or another argument's value.

    Images that cannot be read are left out, all named in one FastganWarning and in the result's ``skipped``. That
    includes images of more pixels than twice ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    size, wanted = check_arguments(spec, image_size, channels, resize, workers)
    if (folder := packed_folder(spec)) is not None:
        return load_pack(folder, size, wanted)
    collection = open_collection(spec, size)
    return read_all(collection, size or default_size(collection), wanted, resize, workers, progress)


def native_size(spec: str | os.PathLike[str]) -> tuple[int, int] | None:
    """(height, width) of all images of a pack or of a file of arrays; None for everything else, missing ones too."""
    try:
        if (folder := packed_folder(spec)) is not None:
            return pack_size(folder)
        return open_collection(spec, None).image_size if os.path.isfile(Path(spec).expanduser()) else None
    except UserError:  # to be told when it is loaded
        return None


def check_arguments(
    spec: str | os.PathLike[str],
    image_size: int | tuple[int, int] | None,
    channels: int | str,
    resize: str,
    workers: int | None,
) -> tuple[tuple[int, int] | None, int | None]:
    """The size and the channels that are asked for, None where they are left open; UserError for what cannot be."""
    if not isinstance(spec, (str, os.PathLike)):
        raise UserError(
            f"data must be 'digits' or the path of a folder, but it is a {type(spec).__name__}; give one of them"
        )
    if spec == "":
        raise UserError("data must be 'digits' or the path of a folder, but it is empty; give one of them")
    if isinstance(spec, str) and re.match(r"[a-zA-Z][\w+.-]*://", spec):
        raise UserError(
            f"data is {printable(spec)}, but addresses are not fetched; download it first, and give the file or folder"
        )
    if channels not in ("auto", 1, 3, 4):
        raise UserError(f"channels must be 'auto', 1, 3 or 4, but it is {channels!r}; give one of them")
    if resize not in RESIZE_MODES:
        raise UserError(f"resize must be one of {', '.join(RESIZE_MODES)}, but it is {resize!r}; give one of them")
    if workers is not None and not (isinstance(workers, int) and workers >= 1):
        raise UserError(f"workers must be at least 1, but it is {workers!r}; leave it out for one thread a CPU")
    return None if image_size is None else _height_width(image_size), None if channels == "auto" else int(channels)


def open_collection(spec: str | os.PathLike[str], image_size: tuple[int, int] | None) -> Collection:
    """The images of anything that :func:`load` takes but packs, not read yet."""
    if isinstance(spec, str) and spec in EMBEDDED:
        return EMBEDDED[spec](image_size)
    if isinstance(spec, str) and spec.partition(":")[0] in LIBRARIES and ":" in spec:
        return open_library(spec)
    path = Path(spec).expanduser()
    return _opener(path)(path)


def check_pairs(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> None:
    """Raises UserError where two folders, or zip files, lack images of the same names, but for the suffix."""
    names = []
    for spec in (first, second):
        collection = open_collection(spec, None) if packed_folder(spec) is None else None
        if not isinstance(collection, FileCollection):
            raise UserError(
                f"pairs are found by the names of files, but {spec} is no folder of images; give two folders"
            )
        names.append({str(file.with_suffix("")) for file in collection.files})
    for own, other, spec, missing in ((names[0], names[1], second, first), (names[1], names[0], first, second)):
        if alone := sorted(own - other):
            listed = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
            raise UserError(
                f"{spec} has no image for {len(alone)} of the {len(own)} of {missing} ({listed}); give two folders "
                "with the same file names"
            )


def packed_folder(spec: str | os.PathLike[str]) -> Path | None:
    """The path of a pack, be it unfinished or damaged; None for everything else."""
    if isinstance(spec, str) and spec in EMBEDDED:
        return None
    folder = Path(spec).expanduser()
    return folder if is_pack(folder) else None


def default_size(collection: Collection) -> tuple[int, int]:
    """The size where none is asked for: the images' own, or 64."""
    return collection.image_size or (DEFAULT_SIZE, DEFAULT_SIZE)


def _opener(path: Path) -> Callable[[Path], Collection]:
    """What opens a path: files by their first bytes, whatever they are called."""
    if not os.path.isfile(path):
        return open_folder
    if path.name.lower().endswith(TARS):
        return _refuse_tar
    with open(path, "rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return open_npy
    if head[:2] == b"PK":
        return _open_zip_or_npz
    if head[:2] == b"\x1f\x8b" or (head[:2] == b"\0\0" and len(head) > 3 and head[2] in IDX_TYPES):
        return open_idx
    return _refuse


def _open_zip_or_npz(path: Path) -> Collection:
    archive = open_zip(path)
    if archive.namelist() and all(name.endswith(".npy") for name in archive.namelist()):
        archive.close()
        return open_npz(path)
    return open_archive(path, archive)


def _refuse_tar(path: Path) -> Collection:
    raise UserError(f"{printable(path)} is a tar file, which is not read; unpack it and give the folder, or make a zip")


def _refuse(path: Path) -> Collection:
    raise UserError(
        f"{printable(path)} is not an intact .zip, .npy, .npz or IDX file (its first bytes are of none); fetch or make "
        f"it anew, or give the folder of the images"
    )


def _height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in pair):
        raise UserError(
            f"image_size must be a positive whole number or (height, width), but it is {image_size!r}; give say 64"
        )
    return pair[0], pair[1]
