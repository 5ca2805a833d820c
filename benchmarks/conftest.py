"""Fixtures and reports of the benchmarks."""

from __future__ import annotations

import os

import harness
import pytest
import torch
from harness import Bench, check_error

import fastgan
from fastgan import _native
from fastgan.proof import interleaved

_speedups: dict[str, dict] = {}


def pytest_configure(config):
    if not _native.loaded("cpu"):
        pytest.exit(f"The benchmarks need the native libraries: {_native.reason('cpu')}.", returncode=2)


@pytest.fixture(scope="session")
def copy_bandwidth() -> float:
    """The machine's own peak, measured in the same run."""
    return harness.copy_bandwidth()


@pytest.fixture
def measure(benchmark, copy_bandwidth):
    """measure(bench, mode, provider) times one row, after its result has been checked."""

    def run(bench: Bench, mode: str, provider: str) -> None:
        case = bench.case
        benchmark.group = f"{bench} {mode}"
        functions = {"eager": case.reference, "fastgan": case.function}
        function = torch.compile(case.reference) if provider == "compile" else functions[provider]
        call = bench.call(function, mode)
        call()
        if provider != "fastgan":
            benchmark(call)
            return

        check_error(bench)
        _native.reset_counters()
        benchmark(call)
        counters = _native.counters()
        assert any(name.split("/")[1].startswith("forward") for name in counters), counters
        assert mode == "forward" or any(name.split("/")[1].startswith("backward") for name in counters), counters
        medians = interleaved({name: bench.call(f, mode) for name, f in functions.items()})
        facts = {
            "speedup_over_eager": medians["eager"] / medians["fastgan"],
            "ms": {name: seconds * 1e3 for name, seconds in medians.items()},
            "kernels": counters,
        }
        if case.op == "batch_norm_act":  # bound by memory: three passes forward, five more backward
            element = torch.empty((), dtype=bench.dtype).element_size()
            moved = torch.Size(case.input).numel() * element * (3 if mode == "forward" else 8)
            facts["fraction_of_copy_bandwidth"] = moved / medians["fastgan"] / copy_bandwidth
        benchmark.extra_info.update(facts)
        _speedups[benchmark.group] = facts

    return run


def pytest_benchmark_update_machine_info(config, machine_info):
    info = fastgan.info()
    machine_info["fastgan"] = {key: info[key] for key in ("version", "torch", "cpu_isa", "build")}
    machine_info["threads"] = torch.get_num_threads()
    machine_info["cpus"] = os.cpu_count()
    for key in ("node", "release"):  # a host's name and kernel say nothing of speed
        machine_info.pop(key, None)
    if torch.cuda.is_available():
        machine_info["gpu"] = torch.cuda.get_device_name()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for row in output_json["benchmarks"]:  # every single time, megabytes of them: the statistics are what is kept
        row["stats"].pop("data", None)


def pytest_terminal_summary(terminalreporter):
    if not _speedups:
        return
    terminalreporter.section("fastgan against eager, taking turns (medians)")
    terminalreporter.write_line(f"{'':86}{'eager ms':>10}{'fastgan ms':>12}{'speedup':>9}{'of copy peak':>14}")
    for group, facts in _speedups.items():
        fraction = facts.get("fraction_of_copy_bandwidth")
        share = f"{fraction:13.0%}" if fraction is not None else ""
        eager, ours = facts["ms"]["eager"], facts["ms"]["fastgan"]
        terminalreporter.write_line(f"{group:86}{eager:10.3f}{ours:12.3f}{facts['speedup_over_eager']:8.2f}x{share}")
