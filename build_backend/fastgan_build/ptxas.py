"""What ptxas reports of each kernel: the registers it takes, and what it spills for want of more."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers[^\n]*?(?:(?P<shared>\d+) bytes smem|\n)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """One instantiation of a kernel for one GPU architecture."""

    symbol: str
    arch: str  # "sm_80"
    registers: int  # of a thread
    spilled: int  # bytes stored and loaded again
    shared: int  # bytes of a block

    @property
    def name(self) -> str:
        """As it stands in the source: the last part of the symbol's nested name."""
        rest, name = self.symbol.removeprefix("_ZN"), self.symbol
        while match := re.match(r"\d+", rest):
            end = match.end() + int(match[0])
            name, rest = rest[match.end() : end], rest[end:]
        return name


def read(report: str) -> list[Kernel]:
    """The kernels of what nvcc printed under ``-Xptxas -v``."""
    return [
        Kernel(
            found["symbol"],
            found["arch"],
            int(found["registers"]),
            int(found["stores"]) + int(found["loads"]),
            int(found["shared"] or 0),
        )
        for found in _ENTRY.finditer(report)
    ]
