"""Writes the table of registers and spills into docs/performance.md, from the reports of the last build.

    python tools/register_table.py

The build keeps what ptxas said in ``build/native/ptxas/``; the table goes between ``<!-- registers -->`` marks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "build_backend"))

from fastgan_build import native, ptxas  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
MARKS = re.compile(r"(<!-- registers -->\n).*?(<!-- /registers -->)", re.DOTALL)


def table(kernels: Mapping[str, Sequence[ptxas.Kernel]]) -> str:
    """A row for each kernel, of all its instantiations (element types, activations, widths of access).

    Args:
        kernels: what ptxas reported, by the folder of the source in csrc/.
    """
    archs = sorted({kernel.arch for found in kernels.values() for kernel in found})
    head = ["folder", "kernel", "instantiations", *(f"registers, {arch}" for arch in archs)]
    rows = [[*head, "shared memory, bytes", "spilled, bytes"]]
    rows.append(["---"] * len(rows[0]))
    for folder, found in sorted(kernels.items()):
        for name in sorted({kernel.name for kernel in found}):
            same = [kernel for kernel in found if kernel.name == name]
            registers = [_range(kernel.registers for kernel in same if kernel.arch == arch) for arch in archs]
            both = (_range(kernel.shared for kernel in same), _range(kernel.spilled for kernel in same))
            rows.append([f"`{folder}`", f"`{name}`", str(len({kernel.symbol for kernel in same})), *registers, *both])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fill(page: str, text: str) -> str:
    """``page`` with ``text`` between its marks."""
    if not MARKS.search(page):
        raise SystemExit("The page has no <!-- registers --> marks; write them where the table belongs.")
    return MARKS.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main() -> None:
    reports = sorted((ROOT / native.FOLDER / "ptxas").rglob("*.txt"))
    if not reports:
        raise SystemExit("There are no reports in build/native/ptxas; build with CUDA first: `pip install -e .`.")
    kernels = {path.parent.name: ptxas.read(path.read_text()) for path in reports}
    PAGE.write_text(fill(PAGE.read_text(), table(kernels)))


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "-".join(map(str, found[:1] + found[1:][-1:]))


if __name__ == "__main__":
    main()
