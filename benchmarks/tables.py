"""The tables of a record of ``benchmarks/report.py``, in Markdown: what it prints is what the documentation says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from bench_passes import PASSES
from parts import CONTENDERS, PARTS

_NAMES = {
    "torch.nn": "eager",
    "torch.compile": "torch.compile",
    "fastgan.layers": "`fastgan.layers`",
    "AdversarialStep": "`AdversarialStep`",
}
_OURS = ("fastgan.layers", "AdversarialStep")
_CAP = "held to AVX2"
SAMPLED = (1, 8)  # images at a time, in the README


def everything(record: dict[str, Any]) -> str:
    """All sections that the record has, under their headings."""
    return "\n\n".join([caption(record), *(body(record) for name, body in _SECTIONS.items() if name in record)])


def fill(text: str, record: dict[str, Any]) -> str:
    """``text`` with what lies between marks ``<!-- benchmark:NAME -->`` and ``<!-- /benchmark:NAME -->`` renewed.

    What the record does not have is left as it is.

    Raises:
        ValueError: where a mark names no section, or lacks its partner.
    """
    bodies = {**_SECTIONS, "readme": readme, "caption": caption}
    for name in re.findall(r"<!-- benchmark:([\w-]+) -->", text):
        if name not in bodies:
            raise ValueError(f"The mark benchmark:{name} names no section; there are {', '.join(bodies)}.")
        begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
        if end not in text.partition(begin)[2]:
            raise ValueError(f"The mark {begin} has no {end} after it; add one.")
        if {"readme": "step", "caption": "step"}.get(name, name) not in record:
            continue
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{bodies[name](record)}\n{end}{rest.partition(end)[2]}"
    return text


def caption(record: dict[str, Any]) -> str:
    """Hardware, versions and size in a sentence."""
    m, peaks = record["machine"], record["peaks"]
    return (
        f"{m['device_name']}, {m['threads']} threads, {m['cpu_isa']} kernels; fastgan {m['version']}, "
        f"torch {m['torch']}, Python {m['python']}. DCGAN {m['image_size']}x{m['image_size']}, width {m['width']}, "
        f"batches of {m['batch_size']}; medians of {m['rounds']} rounds in which all take turns. "
        f"The peaks of the same run: {peaks['float32']:.0f} GFLOP/s in float32, {peaks['bfloat16']:.0f} in bfloat16, "
        f"copying {peaks['copy']:.0f} GB/s."
    )


def readme(record: dict[str, Any]) -> str:
    """The ways to use fastgan, each against eager and compiled."""
    m = record["machine"]
    ways = [
        ("one line changed", "fastgan.layers", "float32", "contiguous"),
        ("the same, bfloat16 autocast and channels_last", "fastgan.layers", "bfloat16", "channels_last"),
        ("`AdversarialStep`", "AdversarialStep", "float32", "contiguous"),
        ("the same, bfloat16 autocast and channels_last", "AdversarialStep", "bfloat16", "channels_last"),
    ]
    isa = m["cpu_isa"]
    rows = [[what, isa, *_against(record["step"], *which)] for what, *which in ways]
    for format, what in (("contiguous", "one line changed"), ("channels_last", "the same, channels_last")):
        rows.append([what, _CAP, *_against(record["capped"]["rows"], "fastgan.layers", "float32", format)])
    found = _sampled(record)
    for batch in SAMPLED:
        eager, ours = (found["float32", batch, name] for name in ("torch.nn", "folded"))
        what = f"a trained generator, {batch} image{'s' if batch > 1 else ''} at a time"
        rows.append([what, isa, _ms(ours), _ms(eager), "-", _ratio(eager / ours), "-"])
    head = ["", "kernels", "fastgan, ms", "eager, ms", "compiled, ms", "against eager", "against compiled"]
    where = f"{m['device_name']}, {m['threads']} threads, torch {m['torch']}; a step of the DCGAN tutorial, "
    return f"{where}batches of {m['batch_size']}:\n\n{table(head, rows)}"


def _step(record: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['precision']}, {row['format']}",
            _NAMES[row["contender"]],
            *_own_and_ratios(record["step"], row),
            _share(record["needed_gflop"], row["ms"], record["peaks"][row["precision"]]),
            _error(row),
        ]
        for row in record["step"]
    ]
    head = ["", "", "ms", "against eager", "against compiled", "of peak", "error of an update"]
    return (
        f"{table(head, rows)}\n\nThe share of the peak counts the {record['needed_gflop']:.1f} GFLOP of "
        "convolutions that a step cannot do without.\nThe error is that of one step against the "
        "same in float64, relative in norm."
    )


def _capped(record: dict[str, Any]) -> str:
    found = record["capped"]
    rows = [
        [f"{row['precision']}, {row['format']}", _NAMES[row["contender"]], *_own_and_ratios(found["rows"], row)[:2]]
        for row in found["rows"]
    ]
    return f"fastgan's kernels {found['cpu_isa']}, torch's {found['torch_isa']}, oneDNN's likewise.\n\n" + table(
        ["", "", "ms", "against eager"], rows
    )


def _layers(record: dict[str, Any]) -> str:
    rows = []
    for row in record["layers"]:
        ms = row["ms"]
        peak = record["peaks"][row["precision"]]
        rows.append(
            [
                f"{row['layer']}, {row['precision']}",
                "x".join(map(str, row["input"])),
                "x".join(map(str, row["weight"])),
                _ms(ms["torch.nn"]),
                _ms(ms["fastgan.layers"]),
                _ratio(ms["torch.nn"] / ms["fastgan.layers"]),
                *(_share(row["gflop"], ms[name], peak) for name in ("torch.nn", "fastgan.layers")),
            ]
        )
    head = ["", "input", "weight", "eager, ms", "fastgan, ms", "against eager", "eager of peak", "fastgan of peak"]
    return table(head, rows)


def _passes(record: dict[str, Any]) -> str:
    found = {(row["layer"], row["precision"], row["pass"]): row for row in record["passes"]}
    rows = []
    for layer, precision in dict.fromkeys(key[:2] for key in found):
        row = [f"{layer}, {precision}"]
        for which in PASSES:
            one = found[layer, precision, which]
            eager, ours = one["ms"]["torch.nn"], one["ms"]["fastgan.layers"]
            row += [_ms(ours), _ratio(eager / ours), _share(one["gflop"], ours, record["peaks"][precision])]
        rows.append(row)
    head = [f"{which}{what}" for which in PASSES for what in (", ms", " against eager", " of peak")]
    return table(["", *head], rows)


def _parts(record: dict[str, Any]) -> str:
    rows = [
        [f"{row['precision']}, {row['format']}", _NAMES[row["contender"]], *(_ms(row["ms"][part]) for part in PARTS)]
        for row in record["parts"]
    ]
    return (
        f"![The step's time by part](images/step-parts.png)\n\n{table(['ms', '', *PARTS], rows)}\n\n"
        f"Eager's are by operator, those of {' and '.join(_NAMES[name] for name in CONTENDERS[1:])} by kernel, "
        'so that what\nlies between kernels is in their "other". They were taken in rounds of their own, whose '
        "sums differ\nfrom the steps' times as neighbours come and go: compare within this table."
    )


def _sampled(record: dict[str, Any]) -> dict[tuple[str, int, str], float]:
    return {(row["precision"], row["batch"], row["contender"]): row["ms"] for row in record["sampling"]}


def _sampling(record: dict[str, Any]) -> str:
    found = _sampled(record)
    rows = []
    for precision, batch in dict.fromkeys(key[:2] for key in found):
        eager, ours, folded = (found[precision, batch, name] for name in ("torch.nn", "fastgan.layers", "folded"))
        ratios = [_ratio(eager / ms) for ms in (ours, folded)]
        rows.append([precision, str(batch), _ms(eager), _ms(ours), _ms(folded), *ratios])
    head = ["", "images", "eager, ms", "fastgan, ms", "folded, ms", "against eager", "folded against eager"]
    return (
        f"{table(head, rows)}\n\nFolded: `fastgan.models.folded`, as `fastgan.load(...).generate` applies a generator."
    )


def _small(record: dict[str, Any]) -> str:
    rows = []
    for row in record["small"]:
        eager, ours, fused = (row["ms"][name] for name in ("torch.nn", "fastgan.layers", "all fused"))
        rows.append([f"{row['network']}, {row['precision']}", _ms(eager), _ratio(eager / ours), _ratio(eager / fused)])
    m = record["machine"]
    where = f"{m['device_name']}, {m['threads']} threads, {m['cpu_isa']} kernels; medians, taking turns."
    return f"{where}\n\n" + table(["a training step of", "eager, ms", "`fastgan.layers`", "all of it fused"], rows)


def _section(title: str, body: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    return lambda record: f"## {title}\n\n{body(record)}"


# Headings with their sections: where a page's marks are not filled yet, there is no empty heading.
_SECTIONS = {
    "step": _section("The whole step", _step),
    "capped": _section(f"The whole step, {_CAP}", _capped),
    "parts": _section("Where a step's time goes", _parts),
    "layers": _section("Layer by layer, forward and backward", _layers),
    "passes": _section("Convolutions, pass by pass", _passes),
    "small": _section("Small networks", _small),
    "sampling": _section("Sampling", _sampling),
}


def _find(rows: list[dict[str, Any]], contender: str, precision: str, format: str) -> float | None:
    wanted = {"contender": contender, "precision": precision, "format": format}
    return next((row["ms"] for row in rows if wanted.items() <= row.items()), None)


def _against(rows: list[dict[str, Any]], contender: str, precision: str, format: str) -> list[str]:
    ours, eager, compiled = (_find(rows, name, precision, format) for name in (contender, "torch.nn", "torch.compile"))
    return [_ms(ours), _ms(eager), _ms(compiled), _ratio(eager / ours), _ratio(compiled and compiled / ours)]


def _own_and_ratios(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    if row["contender"] not in _OURS:
        return [_ms(row["ms"]), "", ""]
    ours, _, _, *ratios = _against(rows, row["contender"], row["precision"], row["format"])
    return [ours, *ratios]


def _ms(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    """Rounded down, against fastgan."""
    return "-" if value is None else f"{math.floor(value * 100) / 100:.2f}x"


def _share(gflop: float, ms: float, peak: float) -> str:
    return f"{gflop / (ms * 1e-3) / peak:.0%}"


def _error(row: dict[str, Any]) -> str:
    return f"{row['error']['update']:.0e}" if row["error"] else "-"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown, its columns aligned to be read as text too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width if width > 2 else "---" for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
