"""The images of a set that are most like given ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.data import to_float

__all__ = ["Nearest", "find_nearest"]

AT_ONCE = 2**24  # elements of known images as floats, 64 MiB


class Nearest(NamedTuple):
    """What :func:`find_nearest` returns; the nearest comes first."""

    index: Tensor
    """int64 [N, k]: which of the known images."""
    distance: Tensor
    """float32 [N, k]: the root mean square difference of pixels, of a range from -1 to 1; 0 for the same image."""
    images: Tensor
    """uint8 [N, k, C, H, W]: the images themselves."""


def find_nearest(images: Tensor, known: Tensor, k: int = 1) -> Nearest:
    """For each of images, floats [N, C, H, W] in [-1, 1], the k most like it of known, uint8 [M, C, H, W]."""
    pixels = images[0].numel()
    queries = images.detach().cpu().float().contiguous().flatten(1)
    distance, index = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    rows = max(1, AT_ONCE // pixels)
    for start in range(0, len(known), rows):
        part = _rows(known[start : start + rows].cpu())
        distance = torch.cat([distance, torch.cdist(queries, part)], 1)
        index = torch.cat([index, torch.arange(start, start + len(part)).expand(len(queries), -1)], 1)
        kept = distance.topk(min(k, distance.shape[1]), largest=False)
        distance, index = kept.values, index.gather(1, kept.indices)
    found = known[index.flatten().to(known.device)].cpu()
    # Anew from the differences: cdist multiplies, and near 0 its rounding is larger than the distance.
    distance = (_rows(found).unflatten(0, index.shape) - queries[:, None]).square().mean(2).sqrt()
    order = distance.argsort(dim=1, stable=True)
    found = found.unflatten(0, index.shape)[torch.arange(len(order))[:, None], order]
    return Nearest(index.gather(1, order), distance.gather(1, order), found)


def _rows(images: Tensor) -> Tensor:
    return to_float(images, memory_format=torch.contiguous_format).flatten(1)
