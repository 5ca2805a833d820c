"""Writes what a record of `make gpu-check` says into docs/performance.md, between its marks, and draws the steps.

    PYTHONPATH=tests python benchmarks/gpu_report.py benchmarks/results/<gpu>.json

The picture, docs/images/gpu-step.png, has every kernel of a step of each contender on one axis of time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from textwrap import fill
from typing import Any

from tables import table

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = Path("docs/performance.md"), Path("docs/images/gpu-step.png")
MARKS = "<!-- gpu -->", "<!-- /gpu -->"
# What a kernel does, by what its name has in it; the first that fits. cuDNN's and cuBLAS's names differ by version.
KINDS = [
    ("batch-norm, activation", ("batch_norm", "bn_", "normalise", "statistics")),
    ("convolution", ("conv", "gemm", "cutlass", "xmma", "wgrad", "dgrad", "cudnn")),
    ("loss", ("bce", "loss")),
    ("optimiser", ("adam", "multi_tensor")),
    ("batch-norm, activation", ("activat", "relu", "tanh", "sigmoid", "threshold")),
    ("other", ("",)),
]
COLORS = {
    "convolution": "#2171b5",
    "batch-norm, activation": "#d95f02",
    "loss": "#7570b3",
    "optimiser": "#66a61e",
    "other": "#bdbdbd",
}
BASES = {"eager": "eager", "torch.compile, max-autotune": "compiled"}  # contenders that ours are compared with


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next(kind for kind, parts in KINDS if any(part in name for part in parts))


def steps_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The step of each contender, those of ours by either engine, in the order that they are shown in."""
    benchmarks = record["benchmarks"]
    found = {}
    for label, engine, name in (
        ("eager", "auto", "torch.nn"),
        ("torch.compile, max-autotune", "compiled", "torch.compile"),
        ("`fastgan.layers`", "auto", "fastgan.layers"),
        ("`AdversarialStep`", "auto", "AdversarialStep"),
        ("`fastgan.layers`, our convolutions", "native", "fastgan.layers"),
        ("`AdversarialStep`, our convolutions", "native", "AdversarialStep"),
        ("`AdversarialStep`, ours, activations on load", "on_load", "AdversarialStep"),
        ("`AdversarialStep`, ours, launches overlapping", "overlap", "AdversarialStep"),
    ):
        step = benchmarks.get(engine, {}).get("step", {}).get(name)
        if step:
            found[label] = step
    return found


def caption(record: dict[str, Any]) -> str:
    machine, tests, measured = record["machine"], record["tests"], record["benchmarks"]["auto"]
    ceilings = measured["ceilings"]
    return (
        f"{machine['gpu']}, torch {machine['torch']}, cuDNN {machine['cudnn']}, commit {str(machine['commit'])[:12]}; "
        f"of the tests {tests['passed']} passed, {tests['failed']} failed and {tests['skipped']} were skipped. "
        f"DCGAN 64x64, bfloat16, channels_last, batches of {measured['batch']}; medians. The same run's ceilings: "
        f"{ceilings['tflops']:.0f} TFLOP/s in a matrix product, {ceilings['tb_per_second']:.1f} TB/s in a copy."
    )


def steps_table(record: dict[str, Any]) -> str:
    steps = steps_of(record)
    ms = {name: statistics.median(step["ms"]) for name, step in steps.items()}
    measured = record["benchmarks"]["auto"]
    rows = []
    for name, step in steps.items():
        against = [f"{ms[base] / ms[name]:.2f}x" if base in ms else "-" for base in BASES]
        share = measured["needed_gflop"] / ms[name] / measured["ceilings"]["tflops"]
        rows.append([name, f"{ms[name]:.2f}", *against, f"{share:.0%}", str(len(step["timeline"]))])
    return table(["", "ms", *(f"against {word}" for word in BASES.values()), "of peak", "kernels"], rows)


def passes_table(record: dict[str, Any]) -> str:
    """Of the native engine's run, in which ours are taken."""
    measured = record["benchmarks"]["native"]
    rows = []
    for row in measured["passes"]:
        ours, eager = (statistics.median(row[f"{name}_ms"]) for name in ("fastgan", "eager"))
        shares = [f"{row['gflop'] / ms / measured['ceilings']['tflops']:.0%}" for ms in (ours, eager)]
        rows.append([row["block"], row["pass"], f"{ours:.3f}", f"{eager:.3f}", f"{eager / ours:.2f}x", *shares])
    return table(["", "", "fastgan, ms", "torch, ms", "against torch", "fastgan of peak", "torch of peak"], rows)


def text_of(record: dict[str, Any]) -> str:
    return (
        f"{caption(record)}\n\n![Every kernel of a step](images/{PICTURE.name})\n\n{steps_table(record)}\n\n"
        f"The convolutions alone:\n\n{passes_table(record)}"
    )


def draw(record: dict[str, Any], path: Path) -> None:
    """A line of bars for each contender: its kernels, where they lie in a step's time, coloured by kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    steps = steps_of(record)
    figure, axes = pyplot.subplots(figsize=(10, 1.4 + 0.6 * len(steps)), layout="constrained")
    for line, step in enumerate(steps.values()):
        for kind, color in COLORS.items():
            spans = [(begin, length) for name, begin, length in step["timeline"] if kind_of(name) == kind]
            axes.broken_barh(spans, (line - 0.35, 0.7), color=color, linewidth=0)
        end = max((begin + length for _, begin, length in step["timeline"]), default=0)
        axes.text(end, line, f"  {statistics.median(step['ms']):.2f} ms", va="center", fontsize=9)
    labels = [name.replace("`", "").replace(", ", "\n") for name in steps]
    axes.set(yticks=range(len(steps)), yticklabels=labels, xlabel="microseconds of a step, each kernel a bar")
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(color=color, label=kind) for kind, color in COLORS.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False)
    figure.supxlabel(fill(caption(record), 150), fontsize=7, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_docs(record: dict[str, Any], root: Path = ROOT) -> None:
    """The tables between the page's marks, and the picture.

    Raises:
        ValueError: where the page lacks the marks.
    """
    page, (begin, end) = (root / PAGE).read_text(), MARKS
    head, _, rest = page.partition(begin)
    if end not in rest:
        raise ValueError(f"{PAGE} has no {begin} with {end} after it; add both where the tables belong.")
    draw(record, root / PICTURE)
    (root / PAGE).write_text(f"{head}{begin}\n{text_of(record)}\n{end}{rest.partition(end)[2]}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="benchmarks/results/<gpu>.json")
    record = json.loads(parser.parse_args(arguments).record.read_text())
    write_docs(record)
    print(text_of(record))


if __name__ == "__main__":
    main()
