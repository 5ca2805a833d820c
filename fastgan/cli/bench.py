"""``fastgan bench``"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.cli.values import whole

if TYPE_CHECKING:
    from fastgan.proof import Proof

__all__ = ["bench"]

NOT_EQUAL = 1
_ROW = "{:<26}" + "{:>17}" * 4
_CONTENDERS = ("torch.nn", "torch.compile", "fastgan.layers", "AdversarialStep")


def bench(
    batch_size: Annotated[int, typer.Option(help="Images a step.", parser=whole(16), metavar="N")] = 16,
    width: Annotated[
        int, typer.Option(help="Feature maps of the layers next to the image.", parser=whole(64), metavar="N")
    ] = 64,
    rounds: Annotated[int, typer.Option(help="Steps of each that are timed.", parser=whole(8), metavar="N")] = 8,
    seed: Annotated[int, typer.Option(help="Of weights, images and latents.", parser=whole(0), metavar="N")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", metavar="NAME")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Measure torch.compile too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Compare fastgan with torch on the DCGAN tutorial's networks: results, time and memory."""
    from fastgan.proof import Proof
    from fastgan.training._device import choose_device

    proof = Proof(batch_size, width, rounds, seed, choose_device(device))
    report = _measure(proof, compiled, _say_nothing if as_json else _say)
    if as_json:
        print(json.dumps(report, indent=2))
    if not report["exactness"]["equal"]:
        print(f"fastgan: {_not_equal(report['exactness'])}", file=sys.stderr)
        raise typer.Exit(NOT_EQUAL)


def _measure(proof: Proof, compiled: bool, say: Callable[[list[str]], None]) -> dict[str, Any]:
    """All parts of the report, each told as it comes; a wrong result is not timed."""
    from fastgan.training._device import choose_precision

    report: dict[str, Any] = {"machine": proof.machine()}
    say(_machine_lines(report["machine"]))
    report["exactness"] = proof.exactness()
    if not report["exactness"]["equal"]:
        return report
    say(_exactness_lines(report["exactness"]))
    report["memory"] = proof.memory()
    say(_memory_lines(report["memory"]))

    precision, _ = choose_precision("auto", proof.device)
    report["speed"] = {}
    say(["", _ROW.format("ms a step", *_CONTENDERS)])
    for name in ["float32", "bfloat16"] if precision == "bf16" else ["float32"]:
        found = report["speed"][name] = proof.speed(name, compiled)
        say(_speed_lines(name, found))
        compiled = compiled and found["compile_failure"] is None  # it would fail again
    say(_compile_lines(report["speed"]) + _kernel_lines(report["speed"]) + ["", _conclusion(report)])
    return report


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line.rstrip(), flush=True)


def _say_nothing(lines: list[str]) -> None:
    pass


def _machine_lines(machine: dict[str, Any]) -> list[str]:
    size = machine["image_size"]
    return [
        f"fastgan {machine['version']}, torch {machine['torch']}, Python {machine['python']}",
        f"{machine['device']}: {machine['device_name']}, {machine['threads']} threads, {machine['cpu_isa']} kernels",
        f"the DCGAN tutorial's networks: {size}x{size}, width {machine['width']}, batches of {machine['batch_size']}, "
        f"seed {machine['seed']}; medians of {machine['rounds']} steps, taking turns",
    ]


def _exactness_lines(exactness: dict[str, Any]) -> list[str]:
    rows = [
        (name, *(f"{found[part]:.1e}" for part in ("losses", "state")))
        for name, found in exactness["differences"].items()
    ]
    steps = f"{exactness['steps']} steps in {exactness['dtype']}"
    head = _ROW.format("difference from torch.nn", "losses", "weights", "", "")
    return ["", head, *(_ROW.format(*row, "", "") for row in rows), f"({steps}, batches of {exactness['batch_size']})"]


def _memory_lines(memory: dict[str, dict[str, float]]) -> list[str]:
    # Less is better here, so the ratio is rounded up, against fastgan.
    rows = [
        (name, *(f"{part[who] / 2**20:.2f}" for who in ("torch.nn", "fastgan.layers")), f"{_up(part['ratio']):.2f}")
        for name, part in memory.items()
    ]
    head = _ROW.format("MiB kept for backward", "torch.nn", "fastgan.layers", "ratio", "")
    return ["", head, *(_ROW.format(*row, "") for row in rows)]


def _speed_lines(precision: str, found: dict[str, Any]) -> list[str]:
    ms = found["ms"]
    label = precision if precision == "float32" else f"{precision}, channels-last"
    return [
        _ROW.format(label, *(f"{ms[name]:.1f}" if name in ms else "-" for name in _CONTENDERS)),
        _ROW.format(
            "  as fast as torch.nn",
            *(f"{_down(ms['torch.nn'] / ms[name]):.2f}x" if name in ms else "-" for name in _CONTENDERS),
        ),
    ]


def _compile_lines(speed: dict[str, Any]) -> list[str]:
    failures = [found["compile_failure"] for found in speed.values() if found["compile_failure"]]
    seconds = [
        f"{found['compile_seconds']:.1f} s ({name})" for name, found in speed.items() if found["compile_seconds"]
    ]
    return failures + ([f"torch.compile took {', '.join(seconds)} before its first step was done"] if seconds else [])


def _kernel_lines(speed: dict[str, Any]) -> list[str]:
    calls = {kernel: count for found in speed.values() for kernel, count in found["kernels"].items()}
    rows = [f"  {kernel:<68}{count:>5}" for kernel, count in calls.items()]
    none = "  none, torch's own did the work; FASTGAN_ENGINE=native forces fastgan's"
    return ["", "fastgan's kernels, calls in one step of fastgan.layers", *(rows or [none])]


def _conclusion(report: dict[str, Any]) -> str:
    parts = [f"Results equal to {_power_of_ten(report['exactness']['largest'])}"]
    for precision, found in report["speed"].items():
        speedup = found["speedup"]["fastgan.layers"]
        words = {"torch.nn": "eager", "torch.compile": "compiled"}
        ratios = [f"{_down(ratio):.2f}x {words[name]}" for name, ratio in speedup.items()]
        parts.append(f"fastgan {', '.join(ratios)} ({precision})")
    parts.append(f"{_up(report['memory']['both']['ratio']):.2f}x the memory for backward")
    return "; ".join(parts) + "."


def _not_equal(exactness: dict[str, Any]) -> str:
    worst = max(exactness["differences"].items(), key=lambda item: max(item[1].values()))
    return (
        f"after {exactness['steps']} steps in {exactness['dtype']} fastgan differs from torch by "
        f"{exactness['largest']:.1e}, where {exactness['bar']:.0e} is allowed, so nothing was timed; "
        f"the larger difference is that of {worst[0]}: please report it with the output of `fastgan doctor`."
    )


def _power_of_ten(error: float) -> str:
    """The power of ten that a difference does not exceed."""
    return "the last bit" if error == 0 else f"1e{math.ceil(math.log10(error))}"


def _down(ratio: float) -> float:
    return math.floor(ratio * 100) / 100


def _up(ratio: float) -> float:
    return math.ceil(ratio * 100) / 100
