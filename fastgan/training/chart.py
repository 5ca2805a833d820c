"""Charts drawn with Pillow: axes, curves, levels and marked stretches on one canvas."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Canvas", "Chart", "Curve", "summarised"]

FINE = 3  # a canvas is drawn so many times larger and then reduced, which smooths every edge
WHITE, PAPER, GRID, GREY, INK = "#ffffff", "#f6f7f9", "#dfe3e8", "#6b7480", "#20262d"
RED, PINK = "#b42318", "#f0443822"

Point = tuple[float, float]


class Curve(NamedTuple):
    """A quantity over steps: in each of some stretches of steps the middle, and the span of most values."""

    steps: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def summarised(steps: np.ndarray, values: np.ndarray) -> Curve:
    """The finite ones of any number of values as a curve of at most 400 points.

    Each is the mean, and the 10% and 90% quantiles, of 8 values or more, smoothed with its neighbours in 1/40 of the
    curve.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    stretches = min(400, max(len(steps) // 8, min(len(steps), 20)))
    if stretches == 0:
        return Curve(*[np.empty(0)] * 4)
    parts = np.array_split(np.arange(len(steps)), stretches)
    window = np.ones(2 * (stretches // 80) + 1)
    neighbours = np.convolve(np.ones(stretches), window, "same")

    def smooth(numbers: list[float]) -> np.ndarray:
        return np.convolve(numbers, window, "same") / neighbours

    low, high = (smooth([np.quantile(values[part], quantile) for part in parts]) for quantile in (0.1, 0.9))
    return Curve(
        np.array([steps[part].mean() for part in parts]), smooth([values[part].mean() for part in parts]), low, high
    )


class Canvas:
    """A white page; all measures are in pixels of the finished picture, from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * FINE, height * FINE), WHITE)
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def text(
        self, at: Point, text: str, size: float = 15, color: str = INK, anchor: str = "la", halo: float = 0
    ) -> float:
        """Writes a line, anchored as Pillow names it, on a white halo of that width; how wide the line is."""
        font = _font(size * FINE)
        self._draw.text(_fine(at), text, color, font, anchor, stroke_width=halo * FINE, stroke_fill=WHITE)
        return font.getlength(text) / FINE

    def line(self, points: Sequence[Point], color: str, width: float = 1) -> None:
        self._draw.line([_fine(point) for point in points], color, round(width * FINE), "curve")

    def dashes(self, start: Point, end: Point, color: str, width: float = 1.5, dash: float = 6) -> None:
        """A horizontal line of dashes."""
        for left in np.arange(start[0], end[0], 2 * dash):
            self.line([(left, start[1]), (min(left + dash, end[0]), end[1])], color, width)

    def area(self, points: Sequence[Point], color: str) -> None:
        self._draw.polygon([_fine(point) for point in points], color)

    def box(self, corner: Point, opposite: Point, color: str) -> None:
        self._draw.rectangle([_fine(corner), _fine(opposite)], color)

    def paste(self, image: Image.Image, at: tuple[int, int]) -> None:
        large = image.convert("RGB").resize((image.width * FINE, image.height * FINE), Image.Resampling.NEAREST)
        self._image.paste(large, (at[0] * FINE, at[1] * FINE))

    def finished(self) -> Image.Image:
        return self._image.reduce(FINE)


class Chart:
    """Curves over steps in a box of a canvas.

    Args:
        corner, size: of the box without the labels, which take 45 pixels on its left and 25 below.
        steps, values: the ranges that are shown; curves are cut off at the edges of the box.
    """

    def __init__(self, canvas: Canvas, corner: Point, size: Point, steps: Point, values: Point) -> None:
        self._canvas, self._steps, self._values = canvas, steps, values
        self._left, self._top = corner
        self._right, self._bottom = corner[0] + size[0], corner[1] + size[1]
        canvas.box(corner, (self._right, self._bottom), PAPER)

    def grid(self) -> None:
        """Lines and labels at round numbers."""
        for value in _round_numbers(*self._values, 5):
            y = self._y(value)
            self._canvas.line([(self._left, y), (self._right, y)], GRID)
            self._canvas.text((self._left - 8, y), f"{value:g}", 13, GREY, "rm")
        for step in _round_numbers(*self._steps, 10):
            x = self._x(step)
            self._canvas.line([(x, self._top), (x, self._bottom)], GRID)
            self._canvas.text((x, self._bottom + 7), f"{step:,.0f}", 13, GREY, "ma")
        self._canvas.text((self._right + 34, self._bottom + 7), "step", 13, GREY)

    def curve(self, curve: Curve, color: str) -> None:
        """The span in a light tone, and the middle as a line."""
        if len(curve.steps) > 1:
            edge = [*zip(curve.steps, curve.high, strict=True), *zip(curve.steps[::-1], curve.low[::-1], strict=True)]
            self._canvas.area([self._at(*point) for point in edge], f"{color}30")
            self._canvas.line([self._at(*point) for point in zip(curve.steps, curve.middle, strict=True)], color, 2)

    def level(self, value: float, label: str, color: str) -> None:
        """A dashed line across, with its label on the right outside."""
        y = self._y(value)
        self._canvas.dashes((self._left, y), (self._right, y), color)
        self._canvas.text((self._right + 8, y), label, 14, color, "lm")

    def mark(self, first: float, last: float) -> None:
        """A stretch of steps in red, to be drawn before the curves."""
        left, right = self._x(first), max(self._x(last), self._x(first) + 2)
        self._canvas.box((left, self._top), (right, self._bottom), PINK)
        self._canvas.line([(left, self._top), (left, self._bottom)], RED)

    def name(self, first: float, label: str, row: int) -> None:
        """What a mark is, beside its beginning; labels in different rows do not cover each other."""
        x = self._x(first)
        near_the_end = x > (self._left + 2 * self._right) / 3
        at = (x - 7 if near_the_end else x + 7, self._top + 8 + 20 * row)
        self._canvas.text(at, label, 14, RED, "ra" if near_the_end else "la", halo=2)

    def _x(self, step: float) -> float:
        first, last = self._steps
        part = (step - first) / (last - first)
        return self._left + min(max(part, 0), 1) * (self._right - self._left)

    def _y(self, value: float) -> float:
        low, high = self._values
        part = (value - low) / (high - low)
        return self._bottom - min(max(part, 0), 1) * (self._bottom - self._top)

    def _at(self, step: float, value: float) -> Point:
        return self._x(step), self._y(value)


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fine(point: Point) -> Point:
    return point[0] * FINE, point[1] * FINE


def _round_numbers(low: float, high: float, count: int) -> np.ndarray:
    """At most about ``count`` multiples of 1, 2 or 5 times a power of ten within a range."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return np.arange(math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9) + 1) * distance
