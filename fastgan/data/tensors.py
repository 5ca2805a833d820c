"""Tensors and arrays as sets of images: which shapes and values are understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, counted
from .file_map import as_tensor
from .image_set import ImageSet, to_float, to_uint8

__all__ = ["Range", "channels_first", "checked_range", "from_tensor", "guess_range", "scale"]

Range = tuple[float, float]
OVERSHOOT = 0.05  # of the range: what resampling filters add at edges is cut off, what is further out is an error


def from_tensor(
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | None = None,
    *,
    value_range: Range | None = None,
    name: str = "tensor",
) -> ImageSet:
    """An :class:`ImageSet` of a tensor or array [N, C, H, W], [N, H, W, C] or [N, H, W] with C 1, 3 or 4.

    Where both readings are possible, dimension 1 is C. The values of black and white are ``value_range``; by default 0
    and 255 for integers, 0 and 1 for booleans and for floats without a value below -0.05, -1 and 1 for floats with one.
    Values are rounded to 8 bits; uint8 is taken as it is, without a copy. Up to 5% of the range beyond its ends, which
    resampling filters add, are cut off.

    Raises:
        UserError: for another shape, or where a value lies outside of the range.
    """
    images = channels_first(_numbers(images))
    value_range = checked_range(value_range) or guess_range(images)
    if images.dtype != torch.uint8 or value_range != (0.0, 255.0):
        images = to_uint8(scale(images, value_range))
    return ImageSet(
        images=images,
        labels=None if labels is None else torch.as_tensor(labels, dtype=torch.int64),
        name=name,
        source=f"a tensor of {counted(len(images), 'image')}",
    )


def channels_first(images: Tensor) -> Tensor:
    """[N, C, H, W] of any layout that :func:`from_tensor` takes, in the same memory."""
    shape = list(images.shape)
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[1] not in (1, 3, 4):
        images = images.permute(0, 3, 1, 2)
    if images.dim() != 4 or images.shape[1] not in (1, 3, 4):
        raise UserError(
            f"images must be [N, C, H, W], [N, H, W, C] or [N, H, W] with C 1, 3 or 4, but they are {shape}"
        )
    if len(images) == 0:
        raise UserError(f"images must hold at least one image, but their shape is {shape}; give more")
    return images


def _numbers(images: Any) -> Tensor:
    """A tensor or array as a tensor of real numbers, in the same memory where torch can have it."""
    if isinstance(images, np.ndarray) and min(images.strides, default=0) < 0:
        images = images.copy()  # torch has no negative strides
    try:
        tensor = as_tensor(images) if isinstance(images, np.ndarray) else torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.is_complex():
        kind = f"{type(images).__name__} of {images.dtype}" if hasattr(images, "dtype") else type(images).__name__
        raise UserError(f"images must be a tensor or an array of real numbers, but they are a {kind}; give one of them")
    return tensor


def checked_range(value_range: Range | None) -> Range | None:
    """The range as it is given; UserError where it is none."""
    if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
        raise UserError(
            f"value_range must be the values of black and white, the smaller one first, but it is {value_range!r}; "
            f"give say (0, 255)"
        )
    return value_range


def guess_range(images: Tensor) -> Range:
    """The values of black and white, by dtype and sign."""
    if not images.is_floating_point():
        return 0.0, 1.0 if images.dtype == torch.bool else 255.0
    return (-1.0, 1.0) if images.amin() < -OVERSHOOT else (0.0, 1.0)


def scale(images: Tensor, value_range: Range) -> Tensor:
    """Values of ``value_range`` as floats in [-1, 1]."""
    black, white = value_range
    if images.dtype == torch.uint8 and (black, white) == (0.0, 255.0):
        return to_float(images)
    wide = images if images.dtype == torch.float64 else images.to(torch.float32)
    low, high = wide.amin().item(), wide.amax().item()
    slack = OVERSHOOT * (white - black)
    if not (black - slack <= low and high <= white + slack):  # written so that NaN fails
        raise UserError(
            f"images must have values from {black:g} to {white:g}, but they have {low:g} to {high:g}; "
            f"give such of 0 to 255 as uint8, scale them, or give from_tensor or stream_of their range as value_range"
        )
    return ((wide - black) * (2 / (white - black)) - 1).clamp_(-1, 1)
