"""The plot of a step's time by part."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from parts import PARTS

matplotlib.use("Agg")
from matplotlib import pyplot

_LABELS = {"torch.nn": "eager"}
# Convolutions in one hue, whatever else in others; all are told apart in grey and by the colour-blind too.
_COLORS = ("#08306b", "#2171b5", "#9ecae1", "#d95f02", "#7570b3", "#66a61e", "#bdbdbd")
_LEAST_LABELLED = 0.03  # of the longest bar


def draw(rows: list[dict[str, Any]], caption: str, path: Path) -> None:
    """A bar for each row of ``parts.measure``, stacked by part, in milliseconds."""
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.55 * len(rows)), layout="constrained")
    labels = [f"{_LABELS.get(row['contender'], row['contender'])}\n{row['precision']}" for row in rows]
    longest = max(sum(row["ms"].values()) for row in rows)
    left = [0.0] * len(rows)
    for part, color in zip(PARTS, _COLORS, strict=True):
        values = [row["ms"][part] for row in rows]
        bars = axes.barh(range(len(rows)), values, left=left, label=part, color=color, edgecolor="white", linewidth=0.5)
        texts = [f"{value:.0f}" if value >= _LEAST_LABELLED * longest else "" for value in values]
        ink = "black" if color in _COLORS[2::4] else "white"
        axes.bar_label(bars, texts, label_type="center", color=ink, fontsize=8)
        left = [x + value for x, value in zip(left, values, strict=True)]
    for i, total in enumerate(left):
        axes.text(total + 0.01 * longest, i, f"{total:.0f} ms", va="center", fontsize=9)
    axes.set(yticks=range(len(rows)), yticklabels=labels, xlabel="ms a step", xlim=(0, 1.1 * longest))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(PARTS), frameon=False)
    figure.supxlabel(fill(caption, 150), fontsize=7, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
