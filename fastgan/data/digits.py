"""The embedded digits: 5,000 images of the MNIST database (origin and licence: ``assets/README.md``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .decode import fit, with_channels
from .image_set import ImageSet, allocate

__all__ = ["load_digits"]

ASSET = Path(__file__).parent / "assets" / "digits.npz"
NATIVE_SIZE = 28
PADDING = 2  # pixels a side: 32 halves evenly, as networks of stride-2 layers need it


def load_digits(image_size: tuple[int, int], channels: int, resize: str) -> ImageSet:
    """500 handwritten images of each digit, white ink (255) on black (0), in the order of their labels.

    28x28 are the original images, 32x32 the same pixels with a black border of 2; other sizes are the 32x32 ones
    resized.
    """
    with np.load(ASSET, allow_pickle=False) as archive:
        digits, labels = archive["images"], archive["labels"]
    if image_size != (NATIVE_SIZE, NATIVE_SIZE):
        digits = np.pad(digits, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    if digits.shape[1:] != image_size or channels != 1:
        converted = allocate(len(digits), image_size, channels)
        for pixels, digit in zip(converted, digits, strict=True):
            image = fit(with_channels(Image.fromarray(digit), channels), image_size, resize)
            pixels[:] = np.asarray(image).reshape(pixels.shape)
        digits = converted
    return ImageSet(
        images=torch.from_numpy(digits.reshape(len(digits), *image_size, channels)).permute(0, 3, 1, 2),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=tuple("0123456789"),
        name="digits",
        source="5,000 images of the MNIST database, embedded in fastgan",
    )
