"""The one way in: what to load, at which size, with how many channels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .decode import RESIZE_MODES
from .digits import load_digits
from .folder import load_folder
from .image_set import ImageSet

__all__ = ["load"]

DIGITS_SIZE = 32
FOLDER_SIZE = 64


def load(
    spec: str | os.PathLike[str] = "digits",
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | str = "auto",
    resize: str = "crop",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Loads images into memory, decoded once, as uint8.

    Args:
        spec: "digits" for the 5,000 embedded MNIST digits, otherwise the path of a folder (``"./digits"`` or a ``Path``
            for a folder of that name). Every PNG, JPEG, WebP, GIF (first frame), BMP, TIFF and PPM file in it and its
            subfolders is read; hidden files and folders are not. JPEGs are turned upright as their EXIF data says.
            Where the images lie in two or more top-level subfolders, these are their classes.
        image_size: pixels, one number for a square or (height, width). Default: 32 for the digits (28 is their native
            size; 32 adds a black border of 2), 64 for a folder.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA). "auto" is 1 where red, green and blue are equal in every image,
            otherwise 3. Transparency is composited on white unless 4 channels are asked for. 16-bit grey is scaled to 8
            bits; 32-bit grey likewise (floats in [0, 1] and integers to 65535 by that scale, any other image from its
            minimum to its maximum).
        resize: how another shape becomes ``image_size``, always antialiased: "crop" scales to cover it and cuts what
            stands out on both sides; "pad" scales to fit into it and fills up with black (white for an image composited
            on white, transparent with 4 channels); "stretch" changes the proportions.
        workers: threads that decode; default: one for every usable CPU.
        progress: called with (files done, files in all) as a folder is read.

    Raises:
        DataNotFound: (a UserError and a FileNotFoundError) no such folder, or no images in it.
        UserError: (a ValueError) a file instead of a folder, images none of which can be read, or another argument's
            value.

    Files that cannot be read are left out, all named in one FastganWarning and in the result's ``skipped``. That
    includes images of more pixels than twice ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    if not isinstance(spec, (str, os.PathLike)):
        raise UserError(
            f"data must be 'digits' or the path of a folder, but it is a {type(spec).__name__}; give one of them"
        )
    if spec == "":
        raise UserError("data must be 'digits' or the path of a folder, but it is empty; give one of them")
    if channels not in ("auto", 1, 3, 4):
        raise UserError(f"channels must be 'auto', 1, 3 or 4, but it is {channels!r}; give one of them")
    if resize not in RESIZE_MODES:
        raise UserError(f"resize must be one of {', '.join(RESIZE_MODES)}, but it is {resize!r}; give one of them")
    if workers is not None and not (isinstance(workers, int) and workers >= 1):
        raise UserError(f"workers must be at least 1, but it is {workers!r}; leave it out for one thread a CPU")
    size = _height_width(image_size if image_size is not None else DIGITS_SIZE if spec == "digits" else FOLDER_SIZE)
    if spec == "digits":
        return load_digits(size, 1 if channels == "auto" else int(channels), resize)
    return load_folder(
        Path(spec).expanduser(), size, None if channels == "auto" else int(channels), resize, workers, progress
    )


def _height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in pair):
        raise UserError(
            f"image_size must be a positive whole number or (height, width), but it is {image_size!r}; give say 64"
        )
    return pair[0], pair[1]
