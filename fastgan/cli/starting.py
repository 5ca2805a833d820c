"""A quick start of the commands that need torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_garbage_collection"]


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For imports, and for what is made with them to stay: it is never looked through for garbage.

    Importing torch makes objects by the hundred thousand, all of which stay, and Python's collector looks through them
    again and again: about a seventh of the time of `fastgan generate`.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
