"""Measures the step, its layers and its parts, prints the tables and writes the record they come from, as JSON.

``make bench`` runs it; the record goes to benchmarks/results/<cpu>-step.json. ``make bench-quick`` takes a minute: few
rounds, batches of 16, no torch.compile, no record; ``--stage`` measures one part of it all. ``make bench-docs
RECORD=...`` measures nothing and writes every figure of README.md and docs/performance.md between
``<!-- benchmark:... -->`` marks, and the plot.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_layers
import bench_passes
import bench_small
import bench_step
import harness
import parts
import tables

from fastgan import _native
from fastgan.proof import Proof

ROOT = Path(__file__).resolve().parent.parent
PLOT = Path("docs/images/step-parts.png")
QUICK = {"batch_size": 16, "rounds": 3}


STAGES = ("step", "capped", "layers", "passes", "parts", "small", "sampling")


def measure(proof: Proof, compiled: bool, stages: Collection[str] = STAGES) -> dict[str, Any]:
    """The record of these stages, as plain values that JSON takes."""
    keeps_heap = _native.keep_heap()  # one setting of the allocator for all
    before = harness.peaks()
    record: dict[str, Any] = {"machine": {**proof.machine(), "keeps_heap": keeps_heap}, "peaks": {}}
    record["needed_gflop"] = bench_step.needed_gflop(proof)
    half = replace(proof, rounds=max(1, proof.rounds // 2))
    for name, stage in {
        "step": lambda: bench_step.measure(proof, compiled),
        "capped": lambda: bench_step.capped(half),
        "layers": lambda: bench_layers.measure(proof.batch_size, proof.width, proof.rounds),
        "passes": lambda: bench_passes.measure(proof.batch_size, proof.width, proof.rounds),
        "parts": lambda: parts.measure(half),
        "small": lambda: bench_small.measure(20 * proof.rounds),
        "sampling": lambda: bench_step.measure_sampling(proof),
    }.items():
        if name not in stages:
            continue
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        record[name] = stage()
    # The best of both, so that a neighbour of one moment does not flatter every fraction.
    record["peaks"] = {name: max(value, before[name]) for name, value in harness.peaks().items()}
    return record


def record_path(record: dict[str, Any], stage: str) -> Path:
    """Where the record of a CPU belongs: benchmarks/results/<cpu>-step.json, or another stage's."""
    machine = record["machine"]
    cpu = re.sub(r"[^a-z0-9]+", "-", machine["device_name"].lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{cpu}-{machine['cpu_isa']}-{stage}.json"


def write_docs(record: dict[str, Any], root: Path = ROOT) -> None:
    """The tables between the marks of README.md and docs/performance.md, and the plot."""
    import plot

    if "parts" in record:
        plot.draw(record["parts"], tables.caption(record), root / PLOT)
    for page in ("README.md", "docs/performance.md"):
        path = root / page
        path.write_text(tables.fill(path.read_text(), record))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, batches of 16, no torch.compile")
    parser.add_argument("--batch-size", type=int, help="images a step (64)")
    parser.add_argument("--width", type=int, default=64, help="feature maps of the layers next to the image (64)")
    parser.add_argument("--rounds", type=int, help="steps of each that are timed (8)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--stage", choices=STAGES, help="one alone, and a record of its own")
    parser.add_argument("--out", type=Path, help="the record's file (benchmarks/results/<cpu>-step.json)")
    parser.add_argument("--from", dest="record", type=Path, help="a record to read instead of measuring")
    parser.add_argument("--docs", action="store_true", help="write the documentation's tables and plot")
    options = parser.parse_args(arguments)

    if options.record:
        record = json.loads(options.record.read_text())
    else:
        size = QUICK if options.quick else {"batch_size": 64, "rounds": 8}
        given = {name: value for name in size if (value := getattr(options, name)) is not None}
        proof = Proof(width=options.width, **(size | given))
        stages = [options.stage] if options.stage else STAGES
        record = measure(proof, compiled=not (options.quick or options.no_compile), stages=stages)
    print(tables.everything(record))
    if not options.record:
        path = options.out
        if path is None and not options.quick:  # a glance is no record
            path = record_path(record, options.stage or "step")
        if path is not None:
            path.write_text(json.dumps(record, indent=1) + "\n")
            print(f"\nrecord: {path}")
    if options.docs:
        write_docs(record)


if __name__ == "__main__":
    main()
