"""metrics.jsonl: one row a step, without waiting for the device at every step."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from .step import RESULTS

__all__ = ["MetricsLog"]


class MetricsLog:
    """Collects the results of steps as tensors, and at intervals reads them in one go and appends them to the file.

    A row: ``step`` (from 1), ``epoch`` (images seen / images there are; null where nobody knows how many there are),
    ``images_per_second`` (real images, over the rows written together), and the results of
    :class:`fastgan.training.AdversarialStep`. A value that is not finite is null.
    """

    def __init__(self, path: Path, interval: float = 0.5) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._interval = interval  # seconds
        self._rows: list[tuple[int, float | None, Tensor]] = []
        self._images, self._since = 0, time.perf_counter()

    def add(self, step: int, epoch: float | None, images: int, results: dict[str, Tensor]) -> None:
        """Notes one step over so many real images."""
        self._rows.append((step, epoch, torch.stack([results[name] for name in RESULTS])))
        self._images += images

    def due(self) -> bool:
        return time.perf_counter() - self._since >= self._interval

    def flush(self) -> dict[str, float | int | None] | None:
        """Writes what has been noted; returns the last row, or None where there is none."""
        if not self._rows:
            return None
        values = torch.stack([row[2] for row in self._rows]).tolist()  # waits for the device
        now = time.perf_counter()
        rate = self._images / (now - self._since)
        rows = [
            {"step": step, "epoch": epoch, "images_per_second": round(rate, 1), **_finite(results)}
            for (step, epoch, _), results in zip(self._rows, values, strict=True)
        ]
        self._file.write("".join(json.dumps(row) + "\n" for row in rows))
        self._file.flush()
        self._rows, self._images, self._since = [], 0, now
        return rows[-1]

    def close(self) -> None:
        self.flush()
        self._file.close()


def _finite(values: list[float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in zip(RESULTS, values, strict=True)}
