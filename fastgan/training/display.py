"""What a training run shows: a live line in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Display"]

PLAIN_INTERVAL = 10.0  # seconds between lines where nobody watches


class Display:
    """Shows notes and the progress of ``steps`` steps; ``quiet`` shows nothing."""

    def __init__(self, steps: int, quiet: bool = False) -> None:
        self.steps, self.quiet = steps, quiet
        self._console = Console(highlight=False)
        self._live: Progress | None = None
        self._started = self._last = time.perf_counter()

    def __enter__(self) -> Display:
        if not self.quiet and self._console.is_terminal:
            columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.fields[text]}")]
            self._live = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=self._console)
            self._live.add_task("", total=self.steps, text="")
            self._live.start()
        self._started = self._last = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def update(self, row: dict[str, Any]) -> None:
        """The latest row of the metrics."""
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=row["step"], text=_measures(row))
            return
        now, last_step = time.perf_counter(), row["step"] == self.steps
        if now - self._last >= PLAIN_INTERVAL or last_step:
            self._last = now
            left = timedelta(seconds=round((now - self._started) * (self.steps / row["step"] - 1)))
            self.note(f"step {row['step']}/{self.steps}  {_measures(row)}  {left} left")


def _measures(row: dict[str, Any]) -> str:
    epoch = "" if row["epoch"] is None else f"epoch {row['epoch']:.1f}  "
    values = {name: float("nan") if row[name] is None else row[name] for name in row}
    return (
        f"{epoch}{row['images_per_second']:,.0f} images/s  loss D {values['loss_d']:.2f} G {values['loss_g']:.2f}  "
        f"D(x) {values['d_real']:.2f}  D(G(z)) {values['d_fake_before']:.2f}"
    )
