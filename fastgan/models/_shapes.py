"""How a stack of strided convolutions takes an image down to a few pixels, and transposed ones bring it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastgan.errors import UserError

__all__ = [
    "MAX_SIZE",
    "MIN_SIZE",
    "Stage",
    "check_channels",
    "check_choice",
    "check_classes",
    "check_image_size",
    "check_whole",
    "plan_stages",
]

MIN_SIZE, MAX_SIZE = 16, 256
SMALLEST = 4  # pixels a dimension keeps at least


class Stage(NamedTuple):
    """One convolution from ``large`` to ``small`` (height, width), or its transposed twin the other way."""

    large: tuple[int, int]
    small: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]  # the transposed twin's: 1 where halving dropped the last pixel of an odd size


def plan_stages(image_size: tuple[int, int]) -> list[Stage]:
    """The stages from the image down, until neither dimension can be halved.

    A dimension is halved while its half is at least 4: kernel 4, stride 2, padding 1, n -> n // 2. In a stage where
    only the other dimension is halved it stays as it is: kernel 3, stride 1, padding 1. So 64 is 64 -> 32 -> 16 -> 8
    -> 4, and (16, 64) is (16, 64) -> (8, 32) -> (4, 16) -> (4, 8) -> (4, 4).
    """
    stages = []
    large = image_size
    while any(halves := [n // 2 >= SMALLEST for n in large]):
        small = tuple(n // 2 if half else n for n, half in zip(large, halves, strict=True))
        stages.append(
            Stage(
                large=large,
                small=small,
                kernel_size=tuple(4 if half else 3 for half in halves),
                stride=tuple(2 if half else 1 for half in halves),
                padding=(1, 1),
                output_padding=tuple(n % 2 if half else 0 for n, half in zip(large, halves, strict=True)),
            )
        )
        large = small
    return stages


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """``image_size`` as (height, width).

    Raises:
        UserError: where it is neither a whole number nor a pair of them, or lies outside of 16 to 256.
    """
    pair = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
        raise UserError(
            f"image_size must be a whole number or a pair (height, width), but it is {image_size!r}; give for "
            "example 64."
        )
    height, width = pair
    nearest = tuple(min(max(n, MIN_SIZE), MAX_SIZE) for n in pair)
    if nearest != (height, width):
        raise UserError(
            f"image_size {height}x{width} (height x width) is outside of what the networks make, {MIN_SIZE} to "
            f"{MAX_SIZE} pixels a side; the nearest size that works is {nearest[0]}x{nearest[1]}."
        )
    return height, width


def check_channels(channels: int, name: str = "channels") -> int:
    """``channels`` if it is 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        UserError: otherwise.
    """
    if isinstance(channels, bool) or channels not in (1, 3, 4):
        raise UserError(f"{name} must be 1 (grey), 3 (RGB) or 4 (RGBA), but it is {channels!r}.")
    return int(channels)


def check_whole(name: str, value: int, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``.

    Raises:
        UserError: otherwise.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, but it is {value!r}.")
    return value


def check_classes(num_classes: int) -> int:
    """``num_classes`` if it is 0 (no classes) or at least 2.

    Raises:
        UserError: otherwise.
    """
    if check_whole("num_classes", num_classes, 0) == 1:
        raise UserError("num_classes must be 0 (no classes) or at least 2, but it is 1.")
    return num_classes


def check_choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """``value`` if it is one of those allowed.

    Raises:
        UserError: otherwise.
    """
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}, but it is {value!r}; choose one of them.")
    return value
