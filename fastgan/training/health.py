"""Says what goes wrong in a run: since which step, by which measure, and what to try."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.training import faults
from fastgan.training.faults import Alarm, Fault
from fastgan.training.glance import Glance
from fastgan.training.step import METRICS

__all__ = ["Monitor"]

LOOK_EVERY = 50  # steps; a fault that lasts is named within 150, and looking takes less than 1% of a run


class Monitor:
    """Watches a run and writes ``health.jsonl``: a row a look with its measures, and a row an alarm.

    It judges the rows of the metrics as they are written, and looks at the generator every 50 steps. What it sees stays
    on the device until rows are written the next time, so that the training never waits for it.

    Args:
        path: the file; rows are appended.
        generator: in training mode.
        latents: [N, ...], at least 2.
        labels: int64 [N], of a generator that takes such.
        perfect: D(x) - D(G(z)) of a perfect discriminator, 1 minus the label smoothing; None where D(x) is no
            probability, and is not judged then.
        tell: called with an alarm when it is raised and when it is over, after ``standing`` has changed.

    Every method raises OSError where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        generator: nn.Module,
        latents: Tensor,
        labels: Tensor | None = None,
        *,
        perfect: float | None = 1.0,
        tell: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._glance = Glance(generator, latents, labels)
        self._perfect, self._tell = perfect, tell
        self._watches = {fault: _Watch(fault) for fault in faults.FAULTS}
        self._recent: deque[float] = deque(maxlen=faults.RECENT)
        self._looks: list[tuple[int, dict[str, Tensor]]] = []

    @property
    def standing(self) -> list[Alarm]:
        """The alarms that are raised and not over."""
        return [watch.alarm for watch in self._watches.values() if watch.alarm is not None]

    def look(self, step: int, real: Tensor) -> None:
        """To be called after every step, with its images [N, C, H, W]; those of the first ones stand for the data."""
        self._glance.collect(real)
        if step % LOOK_EVERY == 0:
            self._looks.append((step, self._glance.measure()))

    def read(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Judges new rows of the metrics, and the looks since the last ones, which it returns as rows."""
        looks = [{"step": step, **_values(measures)} for step, measures in self._looks]
        self._looks.clear()
        for row in sorted([*rows, *looks], key=lambda row: row["step"]):
            if "diversity" in row:
                self._write(row)
                self._judge_look(row)
            else:
                self._judge_metrics(row)
        self._file.flush()
        return looks

    def rewind(self, step: int) -> None:
        """Forgets what was after ``step``, to which the run has gone back; alarms since then are over, and noted."""
        self._looks.clear()
        self._recent.clear()
        for watch in self._watches.values():
            if watch.alarm is not None and watch.alarm.step > step:
                self._write({**watch.alarm.to_row(), "step": step, "event": "rolled back"})
                watch.alarm = None
            watch.since = None
        self._file.flush()

    def close(self) -> None:
        """Judges the last look and closes the file."""
        self.read([])
        self._file.close()

    def _judge_metrics(self, row: dict[str, Any]) -> None:
        self._judge(faults.NOT_FINITE, row["step"], sum(row[name] is None for name in METRICS))
        if self._perfect is None or row["d_real"] is None or row["d_fake_before"] is None:
            return
        self._recent.append((row["d_real"] - row["d_fake_before"]) / self._perfect)
        if len(self._recent) == faults.RECENT:
            self._judge(faults.DISCRIMINATOR_SATURATED, row["step"], sum(self._recent) / faults.RECENT)

    def _judge_look(self, look: dict[str, Any]) -> None:
        for fault, measure in (
            (faults.GENERATOR_COLLAPSED, "diversity"),
            (faults.GRADIENT_VANISHED, "gradient"),
            (faults.MODES_DIFFER, "gap"),
            (faults.DATA_ALL_ALIKE, "spread"),
        ):
            if look[measure] is not None:
                self._judge(fault, look["step"], look[measure])

    def _judge(self, fault: Fault, step: int, measured: float) -> None:
        alarm = self._watches[fault].judge(step, measured)
        if alarm is not None:
            self._write(alarm.to_row())
            self._tell(alarm)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")


class _Watch:
    """Makes an alarm of a fault that lasts."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.since: int | None = None
        """The first of the newest steps that all contradict the present state."""
        self.alarm: Alarm | None = None

    def judge(self, step: int, measured: float) -> Alarm | None:
        """The alarm, where this step raises it or ends it."""
        if self._fault.is_bad(measured) == (self.alarm is not None):
            self.since = None
            return None
        self.since = step if self.since is None else self.since
        if step - self.since < self._fault.sustained:
            return None
        since, self.since = self.since, None
        if self.alarm is None:
            self.alarm = Alarm(self._fault, since, step, measured)
            return self.alarm
        over, self.alarm = replace(self.alarm, until=step), None
        return over


def _values(measures: dict[str, Tensor]) -> dict[str, float | None]:
    """Waits for the device. JSON has no word for infinite and undefined numbers."""
    values = torch.stack([*measures.values()]).tolist()
    return {name: value if math.isfinite(value) else None for name, value in zip(measures, values, strict=True)}
