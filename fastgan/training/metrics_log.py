"""``metrics.jsonl``: a row a step, written many rows at a time so that the loop never waits for the device."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["MetricsLog"]


class MetricsLog:
    """Keeps the tensors of the steps and writes their values about once a second.

    Args:
        path: the file; rows are appended.
        interval: seconds between writes.
        read: called with the rows that have been written.
    """

    def __init__(
        self, path: Path, interval: float = 1.0, read: Callable[[list[dict[str, Any]]], None] = lambda rows: None
    ) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._interval, self._read = interval, read
        self._pending: list[tuple[int, float | None, dict[str, Tensor]]] = []
        self._images = 0  # of the pending steps
        self._since = time.perf_counter()

    def add(self, step: int, epoch: float | None, images: int, metrics: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Takes the 0-d tensors of a step on so many images; the rows of all that is kept, where it was time to write
        them.
        """
        self._pending.append((step, epoch, metrics))
        self._images += images
        return self.flush() if time.perf_counter() - self._since >= self._interval else []

    def flush(self) -> list[dict[str, Any]]:
        """Writes what is kept; the rows of it.

        ``images_per_second`` is the mean over the rows that are written together, by the clock from the last flush (or
        :meth:`restart_clock`) on.
        """
        if not self._pending:
            return []
        kept = [value.detach().double() for _, _, metrics in self._pending for value in metrics.values()]
        values = iter(torch.stack(kept).tolist())  # waits for the device
        speed = self._images / max(time.perf_counter() - self._since, 1e-9)
        rows = []
        for step, epoch, metrics in self._pending:
            row = {"step": step, "epoch": epoch, "images_per_second": round(speed, 1)}
            # JSON has no word for infinite and undefined numbers.
            row |= {name: value if math.isfinite(value) else None for name, value in zip(metrics, values, strict=False)}
            rows.append(row)
        self._file.writelines(json.dumps(row) + "\n" for row in rows)
        self._file.flush()
        self._pending.clear()
        self._images = 0
        self.restart_clock()
        self._read(rows)
        return rows

    def restart_clock(self) -> None:
        """Leaves the time since the last flush out of the speed."""
        self._since = time.perf_counter()

    def close(self) -> None:
        """Writes what is kept and closes the file."""
        self.flush()
        self._file.close()
