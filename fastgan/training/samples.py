"""Drawing latents, generating images from them, and laying images out in one picture."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastgan.data import to_uint8
from fastgan.training._latent import first_weight

__all__ = ["draw_latents", "generate", "grid", "save_picture"]

GAP = 2  # pixels between the images of a grid


def draw_latents(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 [n, *shape] from N(0, 1): row i depends on the seed and i alone, whatever n is."""
    # NumPy fills element after element, so that a longer draw begins with a shorter one; torch's vectorised one does not.
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, *shape), dtype=np.float32))


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, batch_size: int = 64) -> Tensor:
    """The images of latents [N, ...], float32 [N, C, H, W] on the CPU, made ``batch_size`` at a time in the generator's mode."""
    weight = first_weight(generator)
    latents = latents.to(weight.device, weight.dtype)
    return torch.cat([generator(part).float().cpu() for part in latents.split(batch_size)])


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """One picture of images [N, C, H, W] in [-1, 1], row by row, in a square unless ``columns`` says otherwise."""
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).numpy()
    n, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    picture = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 128, np.uint8)
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        picture[top : top + height, left : left + width] = image
    return Image.fromarray(picture[..., 0] if channels == 1 else picture)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes beside ``path`` and renames, so that no half-written picture is ever seen. Raises OSError."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        picture.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
