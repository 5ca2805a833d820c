"""One image file to 8-bit pixels of the wanted size and number of channels, through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

__all__ = ["RESIZE_MODES", "SUFFIXES", "eight_bit", "fit", "pixels_of", "read_image", "with_channels"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# Only these decoders are ever tried, whatever a file calls itself: Pillow has others that start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
RESIZE_MODES = ("crop", "pad", "stretch")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(file: Path | BinaryIO, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
    """The first frame of a file, upright, as uint8 [height, width, channels] with ``image_size`` (height, width).

    ``file`` is its path or its content. Raises whatever Pillow raises for a damaged file: OSError, SyntaxError,
    ValueError, DecompressionBombError and others.
    """
    height, width = image_size
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise OSError("not a regular file")  # a pipe would be waited for without end
    with Image.open(file, formats=FORMATS) as image:
        on_its_side = _orientation(image) >= 5
        # A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size; twice what is wanted leaves the filter enough.
        image.draft(None, (2 * height, 2 * width) if on_its_side else (2 * width, 2 * height))
        image.load()
        # Read again: PNG may hold it behind the pixels, and Pillow itself turns a TIFF while it loads.
        upright = _UPRIGHT.get(_orientation(image))
        pixels = eight_bit(image)
    return pixels_of(pixels if upright is None else pixels.transpose(upright), image_size, channels, resize)


def pixels_of(
    image: Image.Image, image_size: tuple[int, int], channels: int, resize: str, border: str | None = None
) -> np.ndarray:
    """``image`` (mode L, RGB or RGBA) as uint8 [height, width, channels]; arguments as for :func:`fit`."""
    if image.mode == "RGBA" and channels != 4:
        border = "white"
    return np.asarray(fit(with_channels(image, channels), image_size, resize, border)).reshape(*image_size, channels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels, and Pillow raises a dozen kinds of error over it
        return 1


def eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L, RGB, or, where it has transparency of any kind, RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scale_to_eight_bit(np.asarray(image)))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _scale_to_eight_bit(grey: np.ndarray) -> np.ndarray:
    """Grey values of 16 or 32 bits [H, W] as uint8, where Pillow's own conversion would clip them.

    16 bits: 0 to 65535 becomes 0 to 255, as also for 32-bit integers within that range (so Pillow gives 16-bit PGM, and
    its older versions 16-bit PNG). Floats within [0, 1]: 1 becomes 255. Any other range has no agreed white, so that
    the image's own minimum becomes 0 and its maximum 255.
    """
    if not np.isfinite(grey).all():
        raise ValueError("it has pixels that are not finite numbers")
    low, high = float(grey.min()), float(grey.max())
    full_scale = 1.0 if grey.dtype.kind == "f" else 65535.0
    if low < 0 or high > full_scale:
        grey, full_scale = grey.astype(np.float64) - low, high - low or 1.0
    return np.rint(grey * (255.0 / full_scale)).astype(np.uint8)


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """``image`` in mode L, RGB or RGBA for 1, 3 or 4 channels; transparency is kept for 4, else composited on white."""
    if channels == 4:
        return image.convert("RGBA")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, image_size: tuple[int, int], resize: str, border: str | None = None) -> Image.Image:
    """``image`` (mode L, RGB or RGBA) at ``image_size`` (height, width), with Pillow's antialiased Lanczos filter.

    ``resize``: "crop" takes the largest centred part of the wanted shape; "pad" takes the whole image and fills the
    rest with ``border`` (default: transparent for RGBA, otherwise black); "stretch" takes the whole image and bends it.
    """
    height, width = image_size
    if resize == "stretch":
        return _resample(image, (width, height))
    if resize == "crop":
        scale = max(width / image.width, height / image.height)
        left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
        return _resample(image, (width, height), (left, top, image.width - left, image.height - top))
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new(image.mode, (width, height), border or (0 if image.mode == "L" else (0,) * len(image.mode)))
    canvas.paste(_resample(image, inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _resample(image: Image.Image, size: tuple[int, int], box: tuple[float, ...] | None = None) -> Image.Image:
    # Pillow weights the colours of RGBA by alpha. reducing_gap averages large images first; 3 hides the difference.
    if box is not None:  # rounding may set an edge outside by 1e-13, which Pillow refuses
        box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], image.width), min(box[3], image.height))
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
