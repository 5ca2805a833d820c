"""Ending cleanly when asked to."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Inside, the first SIGINT (Ctrl-C), SIGTERM, SIGHUP of a terminal that is closed, or SIGPIPE of a reader that is
    gone, only sets ``name``; a second one does what it always does, but SIGHUP, which a terminal may send twice as it
    closes. ``nohup`` keeps its promise.

    Python takes signals in the main thread alone; in another thread nothing changes.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore(*self._before)

    def __bool__(self) -> bool:
        return bool(self.name)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore(*(self._before.keys() - {signal.SIGHUP}))

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            handler = self._before.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
