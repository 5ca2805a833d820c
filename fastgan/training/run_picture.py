"""``run.png``: a whole run in one picture, drawn from what lies in its folder."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastgan.images import cut_grid
from fastgan.training.chart import GREY, INK, RED, Canvas, Chart, Curve, summarised
from fastgan.training.config import TrainConfig
from fastgan.training.run_folder import RunFolder

__all__ = ["EQUILIBRIUM", "draw_run"]

# The values of the two losses where D(x) = D(G(z)) = 1/2, by the name of the generator's.
EQUILIBRIUM = {
    "non_saturating": {"loss_d": (2 * math.log(2), "2 ln 2"), "loss_g": (math.log(2), "ln 2")},
    "minimax": {"loss_d": (2 * math.log(2), "2 ln 2"), "loss_g": (-math.log(2), "-ln 2")},
}

BLUE, ORANGE = "#1f6feb", "#dd5f0a"
WIDTH, MARGIN, PANEL = 1400, 64, 230
MOST_NAMES = 8  # of alarms: more would cover the curves
TILE, GAP, ROWS, STEPS = 64, 2, 4, 8  # of the strip: pixels a sample and between them; samples below each other; stages


def draw_run(folder: RunFolder) -> Image.Image:
    """D(x) and D(G(z)) against 1/2, the losses against their values at equilibrium, and samples over time.

    Raises:
        OSError: where a file of the run is missing.
    """
    config = TrainConfig.from_json(folder.config.read_text(encoding="utf-8"))
    rows = _rows(folder.metrics)
    alarms = _alarms(_rows(folder.health), rows[-1]["step"])
    stages = _stages(folder, config)
    canvas = Canvas(WIDTH, 790 + ROWS * (TILE + GAP) if stages else 720)
    _head(canvas, config, rows, alarms)
    steps = (min(0, rows[0]["step"]), max(rows[-1]["step"], 1))
    curves = {name: summarised(*_column(rows, name)) for name in ("d_real", "d_fake_before", "loss_d", "loss_g")}

    of_scores = config.loss not in EQUILIBRIUM  # then D is no probability
    judged = [curves[name] for name in ("d_real", "d_fake_before")]
    _title(canvas, 112, "The discriminator", [("D(x), of real images", BLUE), ("D(G(z)), of generated ones", ORANGE)])
    chart = _chart(canvas, 140, steps, _span(judged, {}) if of_scores else (0, 1), alarms)
    if not of_scores:
        chart.level(0.5, "1/2", INK)
    chart.curve(curves["d_real"], BLUE)
    chart.curve(curves["d_fake_before"], ORANGE)
    for row, alarm in enumerate(alarms[:MOST_NAMES]):
        chart.name(alarm["since"], alarm["alarm"], row)

    _title(canvas, 412, "The losses", [("of the discriminator", BLUE), ("of the generator", ORANGE)])
    levels = EQUILIBRIUM.get(config.loss, {})
    losses = {"loss_d": BLUE, "loss_g": ORANGE}
    chart = _chart(canvas, 440, steps, _span([curves[name] for name in losses], levels), alarms)
    for name, color in losses.items():
        if name in levels:
            chart.level(*levels[name], color)
        chart.curve(curves[name], color)

    if stages:
        _title(canvas, 712, "Samples: the same latents at each step", [])
        _strip(canvas, 740, stages)
    return canvas.finished()


def _head(canvas: Canvas, config: TrainConfig, rows: list[dict[str, Any]], alarms: list[dict[str, Any]]) -> None:
    size = config.image_size
    sides = f"{size}x{size}" if isinstance(size, int) else "x".join(map(str, size or ()))
    name = config.data if len(config.data) < 60 else Path(config.data).name
    canvas.text((MARGIN, 28), f"{name}, {config.model}, {sides}", 27)
    facts = [f"{rows[-1]['step']:,} steps of {config.batch_size} images", f"seed {config.seed}", config.loss]
    if config.label_smoothing:
        facts.append(f"label smoothing {config.label_smoothing:g}")
    if config.r1_gamma:
        facts.append(f"R1 {config.r1_gamma:g}")
    if config.mirror:
        facts.append("mirrored")
    canvas.text((MARGIN, 68), "   ".join(facts), 15, GREY)
    said = f"{len(alarms)} alarm{'s' if len(alarms) > 1 else ''}" if alarms else "no alarms"
    canvas.text((WIDTH - MARGIN, 68), said, 15, RED if alarms else GREY, "ra")


def _title(canvas: Canvas, top: float, title: str, legend: list[tuple[str, str]]) -> None:
    left = MARGIN + canvas.text((MARGIN, top), title, 18) + 24
    for label, color in legend:
        canvas.line([(left, top + 12), (left + 22, top + 12)], color, 3)
        left += 30 + canvas.text((left + 30, top + 3), label, 15, color) + 24


def _chart(
    canvas: Canvas, top: float, steps: tuple[float, float], values: tuple[float, float], alarms: list[dict[str, Any]]
) -> Chart:
    chart = Chart(canvas, (MARGIN, top), (WIDTH - 2 * MARGIN, PANEL), steps, values)
    chart.grid()
    for alarm in alarms:
        chart.mark(alarm["since"], alarm["until"])
    return chart


def _strip(canvas: Canvas, top: int, stages: list[tuple[str, list[Image.Image]]]) -> None:
    """Each stage as a block of samples, under its name."""
    pitch = TILE + GAP
    columns = min(8, int(((WIDTH - 2 * MARGIN) / len(stages) - 9) // pitch))
    for index, (name, tiles) in enumerate(stages):
        left = MARGIN + index * (columns * pitch + 9)
        canvas.text((left, top), name, 13, GREY)
        for number, tile in enumerate(tiles[: columns * ROWS]):
            row, column = divmod(number, columns)
            canvas.paste(tile, (left + column * pitch, top + 20 + row * pitch))


def _stages(folder: RunFolder, config: TrainConfig) -> list[tuple[str, list[Image.Image]]]:
    """Names and samples of at most ``STEPS`` steps, closer together at the beginning, and of real images."""
    steps = sorted(int(match[1]) for path in folder.samples.iterdir() if (match := _SAMPLE.fullmatch(path.name)))
    if len(steps) > STEPS:
        steps = [steps[round((len(steps) - 1) * (index / (STEPS - 1)) ** 1.5)] for index in range(STEPS)]
    pictures = [(f"step {step:,}", folder.sample(step)) for step in steps]
    real = folder.samples / "real.png"
    if real.exists():
        pictures.append(("real", real))
    size = config.image_size if isinstance(config.image_size, tuple) else (config.image_size,) * 2
    return [(name, [_fitted(tile) for tile in cut_grid(Image.open(path), size)]) for name, path in pictures]


def _fitted(tile: Image.Image) -> Image.Image:
    """As large as the strip's tiles; RGBA on white."""
    if tile.mode == "RGBA":
        page = Image.new("RGBA", tile.size, "white")
        page.alpha_composite(tile)
        tile = page
    scale = TILE / max(tile.size)
    size = [max(1, round(side * scale)) for side in tile.size]
    return tile.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _column(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; NaN where a value is not finite."""
    values = [math.nan if row[name] is None else row[name] for row in rows]
    return np.array([row["step"] for row in rows], dtype=float), np.array(values, dtype=float)


def _alarms(rows: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
    """Each alarm with the step until which it stood."""
    alarms = []
    for row in rows:
        if row.get("event") == "raised":
            alarms.append({**row, "until": last_step})
        elif row.get("event") == "over":
            ended = next((alarm for alarm in reversed(alarms) if alarm["alarm"] == row["alarm"]), None)
            if ended is not None:
                ended["until"] = row["step"]
    return alarms


def _span(curves: list[Curve], levels: dict[str, tuple[float, str]]) -> tuple[float, float]:
    """The range that shows the levels and the curves, but for spikes that would press all the rest flat."""
    shown = np.concatenate([part for curve in curves for part in (curve.low, curve.high)] + [np.zeros(1)])
    middle = np.concatenate([curve.middle for curve in curves] + [np.zeros(1)])
    low, high = np.quantile(shown, [0.02, 0.98])
    low, high = min(low, max(middle.min(), 2 * low)), max(high, min(middle.max(), 2 * high), 0.1)
    known = [value for value, _ in levels.values()]
    return 1.1 * min(0.0, low, *known), 1.1 * max([high, *known])


_SAMPLE = re.compile(r"step-(\d+)\.png")
