"""Refusing what this machine cannot hold before it is begun, rather than being killed for it."""

from __future__ import annotations

import os
from pathlib import Path

from fastgan.errors import UserError

__all__ = ["check_fits"]

# Of a container, whose processes are killed beyond; "max" where it has none.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fits(size: int, what: str, remedy: str) -> None:
    """Raises UserError where so many bytes are more than this machine has; ``what`` takes them, as in "64 images"."""
    total = _total()
    if size > total:
        raise UserError(
            f"{what} take at least {size / 2**30:,.0f} GiB of memory, and this machine has {total / 2**30:,.0f}; "
            f"{remedy}."
        )


def _total() -> int:
    """Bytes; what of them is free changes by the moment."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in LIMITS:
        try:
            found.append(int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(found)
