"""What a run says while it trains: a live display in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

__all__ = ["Progress", "Reading", "progress_on"]


class Progress(Protocol):
    """Told of rows of metrics as they are written, and of alarms: what has happened, and which stand now."""

    def update(self, row: dict[str, Any]) -> None: ...

    def say(self, text: str) -> None: ...

    def warn(self, text: str, standing: Sequence[str]) -> None: ...

    def close(self) -> None: ...


def progress_on(total: int, start: int = 0) -> Progress:
    """The live display where stdout is a terminal, plain lines otherwise; ``total`` steps, ``start`` of them done."""
    return LiveProgress(total, start) if sys.stdout.isatty() else PlainProgress(total, start)


def describe(row: dict[str, Any]) -> str:
    """The losses, D(x), and D(G(z)) before and after the discriminator's update."""
    number = {name: float("nan") if value is None else value for name, value in row.items()}
    return (
        "loss D {loss_d:.3f} G {loss_g:.3f}  D(x) {d_real:.2f}  D(G(z)) {d_fake_before:.2f}/{d_fake_after:.2f}"
    ).format(**number)


def pace(row: dict[str, Any], left: TimeLeft) -> str:
    """The speed and the time left."""
    return f"{row['images_per_second']:,.0f} images/s  {clock(left.after(row['step']))} left"


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Reading:
    """Says how many images of a large folder are read: a moving line in a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._moving = sys.stdout.isatty()
        self._said, self._interval = time.perf_counter(), 0.5 if self._moving else 10.0

    def __call__(self, done: int, total: int) -> None:
        if time.perf_counter() - self._said >= self._interval:
            self._said = time.perf_counter()
            print(f"read {done:,} of {total:,} images", end="\r" if self._moving else "\n", flush=True)


class TimeLeft:
    """Extrapolates from the steps done so far, pauses for pictures and checkpoints included."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self._start, self._began = total, start, time.perf_counter()

    def after(self, step: int) -> float:
        """Seconds."""
        return (time.perf_counter() - self._began) / max(step - self._start, 1) * (self.total - step)


class PlainProgress:
    """A line after the first row, then every ``interval`` seconds, and at the end; alarms at once."""

    def __init__(self, total: int, start: int = 0, interval: float = 10.0) -> None:
        self._left, self._interval, self._said = TimeLeft(total, start), interval, float("-inf")

    def update(self, row: dict[str, Any]) -> None:
        now, step, total = time.perf_counter(), row["step"], self._left.total
        if now - self._said >= self._interval or step == total:
            self._said = now
            self.say(f"step {step}/{total}  {describe(row)}  {pace(row, self._left)}")

    def say(self, text: str) -> None:
        with suppress(BrokenPipeError):  # the reader is gone, of which Interrupt is told by a signal
            print(text, flush=True)

    def warn(self, text: str, standing: Sequence[str]) -> None:
        self.say(f"alarm  {text}")

    def close(self) -> None:
        pass


_CLOSED = suppress(OSError)  # the terminal is, of which Interrupt is told by a signal: the checkpoint comes first


class LiveProgress:
    """A few lines that are redrawn as rows come; there is no thread that would take time from the training."""

    def __init__(self, total: int, start: int = 0) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._left = TimeLeft(total, start)
        self._bar = RichProgress(BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._task = self._bar.add_task("starting", total=total, completed=start)
        self._numbers, self._standing = "", ()
        self._live = Live(self._bar, auto_refresh=False)
        self._live.start(refresh=True)

    def update(self, row: dict[str, Any]) -> None:
        self._bar.update(self._task, completed=row["step"], description=pace(row, self._left))
        self._numbers = describe(row)
        self._draw()

    def say(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str, standing: Sequence[str]) -> None:
        self._standing = standing
        self._draw()
        self._print(f"alarm  {text}", style="yellow")

    def close(self) -> None:
        with _CLOSED:
            self._live.stop()

    def _print(self, text: str, **style: str) -> None:
        with _CLOSED:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True, **style)

    def _draw(self) -> None:
        from rich.console import Group
        from rich.text import Text

        alarms = [Text(f"alarm: {', '.join(self._standing)}", style="bold yellow")] if self._standing else []
        with _CLOSED:
            self._live.update(Group(self._bar, Text(self._numbers), *alarms), refresh=True)
