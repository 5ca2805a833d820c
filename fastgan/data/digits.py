"""The embedded digits: 5,000 images of the MNIST database (origin and licence: ``assets/README.md``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .collection import ArrayCollection

__all__ = ["open_digits"]

ASSET = Path(__file__).parent / "assets" / "digits.npz"
NATIVE_SIZE = 28
PADDING = 2  # pixels a side: 32 halves evenly, as networks of stride-2 layers need it


def open_digits(image_size: tuple[int, int] | None) -> ArrayCollection:
    """500 handwritten images of each digit, white ink (255) on black (0), in the order of their labels.

    Where 28x28 are asked for they are the original images, otherwise the same pixels with a black border of 2.
    """
    with np.load(ASSET, allow_pickle=False) as archive:
        digits, labels = archive["images"], archive["labels"]
    if image_size != (NATIVE_SIZE, NATIVE_SIZE):
        digits = np.pad(digits, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    return ArrayCollection(
        digits[..., None],
        torch.from_numpy(labels.astype(np.int64)),
        tuple("0123456789"),
        name="digits",
        source="5,000 images of the MNIST database, embedded in fastgan",
    )
