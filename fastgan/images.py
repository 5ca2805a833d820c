"""Pictures for people to look at: a batch of images as one grid."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fastgan.data import to_uint8

__all__ = ["image_grid", "save_image", "to_image"]

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
    scale = max(1, round(LEGIBLE / max(height, width)))
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).numpy()
    tiles = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = tiles.shape[1:3]
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), GREY, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


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
