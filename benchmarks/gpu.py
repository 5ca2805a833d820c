"""Measures DCGAN-64's blocks and its whole step on a GPU, in bfloat16 and channels-last, and prints them as JSON.

`make gpu-check` runs it once for each engine, because FASTGAN_ENGINE and its like are read once a process. All
times are raw: of every repetition, in milliseconds, by the device's own events. ``benchmarks/gpu_report.py`` makes
tables of them.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from typing import Any

import bench_layers
import bench_passes
import bench_step
import torch
from cases import Case, relative_error
from raw import RawRun
from torch.profiler import ProfilerActivity, profile

from fastgan import _native
from fastgan.ops.activation import NUMBERS
from fastgan.ops.blocks import Block, Conv, Norm, Parameters
from fastgan.proof import Proof

BATCH, REPEATS, WARM_UPS = 128, 30, 5
DTYPE, FORMAT = torch.bfloat16, torch.channels_last


def milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Of each repetition, between two events of the current stream."""
    for _ in range(WARM_UPS):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in events]


def measure_block(case: Case) -> dict[str, Any]:
    """Forward and backward of one block, ours and torch's own, with how far the outputs are apart."""
    input, tensors, buffers = case.sample(DTYPE, FORMAT)
    leaves = {name: leaf.cuda().requires_grad_() for name, leaf in {"input": input, **tensors}.items()}
    buffers = {name: buffer.cuda() for name, buffer in buffers.items()}
    row: dict[str, Any] = {"block": case.name, "op": case.op, "input": case.input, "weight": case.tensors["weight"]}
    outputs = {}
    for name, function in (("fastgan", case.function), ("eager", case.reference)):

        def forward(function: Callable = function) -> torch.Tensor:
            return function(**leaves, **buffers, **case.options)

        outputs[name] = forward()
        grad = torch.ones_like(outputs[name])

        def both(forward: Callable = forward, grad: torch.Tensor = grad) -> object:
            return torch.autograd.grad(forward(), list(leaves.values()), grad)

        _native.reset_counters()
        both()
        row[f"{name}_kernels"] = _native.counters()
        row[f"{name}_forward_ms"] = milliseconds(forward)
        row[f"{name}_forward_backward_ms"] = milliseconds(both)
    row["difference"] = relative_error(outputs["fastgan"], outputs["eager"])
    return row


def measure_pending(case: Case) -> dict[str, Any]:
    """A block's forward on an input that the block before left to be normalised and activated: on load, and before.

    The rule of csrc/conv/engine_cuda.cpp should take the better one. Under FASTGAN_ON_LOAD=always.
    """
    input, tensors, _ = case.sample(DTYPE, FORMAT)
    x, weight = input.cuda(), Parameters(tensors["weight"].cuda())
    options = (case.options["stride"], case.options["padding"], (1, 1), 1, case.op == "conv_transpose_bn_act")
    block = Block(Conv(*options), Norm(True, 0.1, 1e-5) if case.options["batch_norm"] else None, 0, 0.0)
    below = Block(None, Norm(False, 0.1, 1e-5), NUMBERS["leaky_relu"], 0.2)
    channels = x.shape[1]
    statistics = Parameters(running_mean=torch.zeros(channels).cuda(), running_var=torch.ones(channels).cuda())

    def on_load() -> torch.Tensor:
        return RawRun(x, [below, block], [statistics, weight]).output

    def before() -> torch.Tensor:
        return RawRun(RawRun(x, [below], [statistics]).output, [block], [weight]).output

    row = {"block": case.name, "on_load_ms": milliseconds(on_load), "before_ms": milliseconds(before)}
    return {**row, "difference": relative_error(on_load(), before())}


def measure_ceilings() -> dict[str, float]:
    """What the device can do: TFLOP/s of a large matrix product of random numbers, TB/s of a copy, read and written."""
    size, gigabytes = 8192, 4
    a, b = (torch.randn(size, size, device="cuda", dtype=DTYPE) for _ in range(2))
    source = torch.empty(gigabytes << 30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    product, copy = (min(milliseconds(call, 10)) for call in (lambda: a @ b, lambda: target.copy_(source)))
    return {"tflops": 2 * size**3 / product * 1e-9, "tb_per_second": 2 * source.numel() / copy * 1e-9}


def measure_passes(case: Case) -> list[dict[str, Any]]:
    """A block's convolution alone, forward and its two gradients, ours and torch's own."""
    convolution = bench_passes.Convolution.of(case, BATCH, DTYPE, FORMAT, "cuda")
    small = bench_passes.Convolution.of(case, bench_passes.EXACT_BATCH, DTYPE, FORMAT, "cuda")
    gflop = bench_layers.needed_gflop(case) / len(bench_passes.PASSES)
    rows = []
    for which in bench_passes.PASSES:
        times = {
            f"{name}_ms": milliseconds(lambda call=call, which=which: call(which))
            for name, call in (("fastgan", convolution.fastgan), ("eager", convolution.torch))
        }
        error = bench_passes.check(small, which)
        rows.append({"block": case.name, "pass": which, "gflop": gflop, "error": error, **times})
    return rows


def timeline(step: Callable[[], object]) -> list[tuple[str, float, float]]:
    """Every kernel of one step: name, and microseconds of its begin, from the first one's on, and of its duration."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    begin = min((kernel.time_range.start for kernel in kernels), default=0)
    return sorted(
        ((kernel.name, kernel.time_range.start - begin, kernel.time_range.elapsed_us()) for kernel in kernels),
        key=lambda kernel: kernel[1],
    )


def measure_step(compiled: bool) -> dict[str, Any]:
    """The tutorial's loop and AdversarialStep, each as :mod:`fastgan.proof` sets it up.

    ``compiled``: torch.compile instead of ours, with what its users ask for where speed is all: CUDA graphs, and every
    kernel's variants tried.
    """
    proof = Proof(batch_size=BATCH, device=torch.device("cuda"))
    contenders = proof.contenders("bfloat16", FORMAT, compiled, "max-autotune")
    steps = {"torch.compile": contenders.steps.get("torch.compile")} if compiled else contenders.steps
    rows: dict[str, Any] = {"compile_failure": contenders.compile_failure}
    for name, step in steps.items():
        if step is None:
            continue
        _native.reset_counters()
        step()
        row = {"kernels": _native.counters()}
        with warnings.catch_warnings(record=True) as caught:  # such as that a step runs without a graph
            row |= {"ms": milliseconds(step), "timeline": timeline(step)}
        rows[name] = {**row, "warnings": [str(warning.message) for warning in caught]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--compile", action="store_true", help="measure torch.compile's step, and nothing else")
    only.add_argument("--pending", action="store_true", help="measure pending activations and the step, nothing else")
    only.add_argument("--step", action="store_true", help="measure the step, and nothing else")
    options = parser.parse_args()
    record: dict[str, Any] = {"batch": BATCH}
    cases = bench_layers.blocks(BATCH)
    if options.pending:
        record["pending"] = [measure_pending(case) for case in cases]
    elif not (options.compile or options.step):
        record["ceilings"] = measure_ceilings()
        record["needed_gflop"] = bench_step.needed_gflop(Proof(batch_size=BATCH))
        record["blocks"] = [measure_block(case) for case in cases]
        record["passes"] = [row for case in cases for row in measure_passes(case)]
    print(json.dumps({**record, "step": measure_step(options.compile)}))


if __name__ == "__main__":
    main()
