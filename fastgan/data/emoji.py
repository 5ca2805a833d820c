"""The embedded emoji: 1,871 images in colour (origin and licence: ``assets/README.md``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .collection import ArrayCollection

__all__ = ["open_emoji"]

ASSET = Path(__file__).parent / "assets" / "emoji.webp"
NATIVE_SIZE = 64
COUNT, COLUMNS = 1871, 44  # of the atlas, row by row; what is left of the last row is white


def open_emoji() -> ArrayCollection:
    """Emoji on white, 64x64, in the order of their code points; without labels."""
    with Image.open(ASSET) as atlas:
        pixels = np.asarray(atlas.convert("RGB"))
    rows = pixels.shape[0] // NATIVE_SIZE
    tiles = pixels.reshape(rows, NATIVE_SIZE, COLUMNS, NATIVE_SIZE, 3).swapaxes(1, 2)
    return ArrayCollection(
        tiles.reshape(-1, NATIVE_SIZE, NATIVE_SIZE, 3)[:COUNT],
        name="emoji",
        source="1,871 emoji by Microsoft and LobeHub, embedded in fastgan",
        border="white",
    )
