"""Pictures for people to look at: a batch of images as one grid."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fastgan.data import to_uint8

__all__ = ["cut_grid", "image_grid", "save_image", "to_image"]

LEGIBLE = 64  # pixels: smaller images are enlarged to about this
GAP = 2  # pixels between images
GREY = 128


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1], C 1, 3 or 4, row by row as one picture.

    ``columns`` is by default what makes the picture about square. Images under 43 pixels are enlarged, pixel by pixel.
    """
    count, channels, height, width = images.shape
    columns = min(columns or max(1, round(math.sqrt(count * height / width))), count)
    rows = math.ceil(count / columns)
    scale = _scale(height, width)
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).numpy()
    tiles = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = tiles.shape[1:3]
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), GREY, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def cut_grid(picture: Image.Image, image_size: tuple[int, int]) -> list[Image.Image]:
    """The images of :func:`image_grid` again, row by row and as large as they are there; of (height, width) pixels.

    Where the last row is not full, the rest of it is grey images.
    """
    height, width = (side * _scale(*image_size) for side in image_size)
    return [
        picture.crop((left, top, left + width, top + height))
        for top in range(0, picture.height - height + 1, height + GAP)
        for left in range(0, picture.width - width + 1, width + GAP)
    ]


def _scale(height: int, width: int) -> int:
    """By how much images are enlarged."""
    return max(1, round(LEGIBLE / max(height, width)))


def to_image(image: Tensor) -> Image.Image:
    """One image [C, H, W] in [-1, 1], C 1, 3 or 4, in its own size."""
    pixels = to_uint8(image.cpu()).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)


def save_image(image: Image.Image, path: Path) -> None:
    """Writes beside ``path`` and renames, so that nobody sees half a picture.

    Raises:
        OSError: where it cannot be written.
        ValueError: where the suffix is not of a format that Pillow writes.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        image.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
