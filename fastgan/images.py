"""Pictures for people to look at: batches of images as one grid."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor

from .data import to_uint8

__all__ = ["grid_png", "image_grid"]

LEGIBLE = 64  # pixels: smaller images are enlarged to about this
GAP = 2  # pixels between images


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1], C 1, 3 or 4, row by row as one picture.

    ``columns`` is by default what makes the picture about square. Images under 48 pixels are enlarged, pixel by pixel.
    """
    count, channels, height, width = images.shape
    columns = min(columns or max(1, round(math.sqrt(count * height / width))), count)
    rows = math.ceil(count / columns)
    scale = max(1, round(LEGIBLE / max(height, width)))
    tiles = to_uint8(images).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(0, 2, 3, 1)
    height, width = tiles.shape[1:3]
    canvas = torch.zeros(rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels, dtype=torch.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas.squeeze(2).numpy() if channels == 1 else canvas.numpy())


def grid_png(images: Tensor, columns: int | None = None) -> bytes:
    """:func:`image_grid` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image_grid(images, columns).save(buffer, "PNG")
    return buffer.getvalue()
