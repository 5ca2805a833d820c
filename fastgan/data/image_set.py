"""Images in memory or in a map: one uint8 tensor, whose batches are gathered, mirrored and scaled without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, counted
from .file_map import FileMap

__all__ = ["ImageSet", "allocate", "mirror_some", "to_float", "to_uint8"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """A set of images of one size.

    Args:
        images: uint8 [N, C, H, W]; any strides, though channels_last ones are gathered and handed on fastest.
        labels: int64 [N], or None where the images have no classes.
        classes: the names that the labels stand for.
        name: a short word for this set, as used in the names of run folders.
        source: where the images come from, for people to read.
        skipped: (file, reason) of every file that could not be read.
        mapping: the memory map that the images lie in, if any; they cannot be written to then.

    As a ``torch.utils.data.Dataset`` its items are float32 [C, H, W] in [-1, 1], without labels.

    Raises:
        UserError: where the shapes or dtypes are others than these.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    name: str = "images"
    source: str = "memory"
    skipped: tuple[tuple[str, str], ...] = ()
    mapping: FileMap | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise UserError(
                f"images must be a uint8 tensor [N, C, H, W], but they are {self.images.dtype} "
                f"{list(self.images.shape)}; fastgan.data.from_tensor takes other ones"
            )
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise UserError(
                f"labels must have one entry an image, [{len(self.images)}], but their shape is "
                f"{list(self.labels.shape)}; give one label an image, or None"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a set of {len(self)}")
        return self.batch([index % len(self)])[0]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        shape = f"{counted(len(self), 'image')}, {size}, channels={self.channels}"
        return f"ImageSet({self.name!r}, {shape}, source={self.source!r})"

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.images.shape[2], self.images.shape[3]

    def batch(
        self,
        indices: Tensor | Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        mirror: torch.Generator | None = None,
    ) -> Tensor:
        """The images at ``indices`` (int64 [B]) as [B, C, H, W], from black at -1 to white at 1.

        They are gathered where this set lies, travel to ``device`` (default: stay there) as uint8, and are mirrored and
        scaled there; on the way to a GPU they pass through pinned memory, and nothing waits for them. With ``mirror``,
        a generator on the CPU, each image is mirrored left to right with probability 1/2.
        """
        device = torch.device(device or self.images.device)
        indices = _send(torch.as_tensor(indices, dtype=torch.int64), self.images.device)
        batch = _send(_gather(self.images, indices), device)
        if self.mapping is not None:
            self.mapping.touched(len(indices), self.images[0].numel())
        if mirror is not None:
            batch = mirror_some(batch, mirror)
        return to_float(batch, dtype, memory_format)

    def cached(self, device: torch.device | str) -> ImageSet:
        """The same set with all images in the memory of ``device``.

        Raises:
            UserError: where they do not fit.
        """
        try:
            images = self.images.to(device, copy=self.mapping is not None)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
                raise
            raise UserError(
                f"the {len(self):,} images of {self.name} take {self.images.numel() / 2**30:,.1f} GiB, more than the "
                f"memory of {device} has free; give another cache, a smaller image_size or fewer images"
            ) from None
        return replace(self, images=images, mapping=None)


def allocate(n: int, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Memory for images as files are read: uint8 [n, height, width, channels], not filled."""
    try:
        return np.empty((n, *image_size, channels), np.uint8)
    except (MemoryError, ValueError):  # ValueError: more bytes than there are addresses
        height, width = image_size
        gib = n * height * width * channels / 2**30
        raise UserError(
            f"{n:,} images of {height}x{width} with {channels} channels take {gib:,.0f} GiB of memory, more than there "
            f"is; give a smaller image_size or fewer images"
        ) from None


def _gather(images: Tensor, indices: Tensor) -> Tensor:
    # index_select reads channels_last memory in NCHW order, which takes ten times as long as whole rows do.
    if images.is_contiguous(memory_format=torch.channels_last):
        return images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
    return images.index_select(0, indices)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    # A copy from pageable memory would hold the caller up until it is done.
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def mirror_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B, C, H, W] of any dtype, each image mirrored left to right with probability 1/2; ``generator`` is a CPU one."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    mirrored = _send(mirrored, images.device)[:, None, None, None]
    return torch.where(mirrored, images.flip(-1), images)


def to_float(
    images: Tensor, dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.channels_last
) -> Tensor:
    """uint8 [B, C, H, W] as x / 127.5 - 1, rounded once to ``dtype``."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return images.to(wide, memory_format=memory_format).div_(127.5).sub_(1).to(dtype)


def to_uint8(images: Tensor) -> Tensor:
    """The inverse of the scaling: floats in [-1, 1] of any shape as uint8, to the nearest, clamped; NaN becomes 0."""
    wide = images.detach().to(torch.float32)
    return wide.add(1).mul_(127.5).nan_to_num_(0.0).round_().clamp_(0, 255).to(torch.uint8)
