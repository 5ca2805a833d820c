"""The convolutions of the DCGAN tutorial's networks, pass by pass, against torch's own.

``benchmarks/report.py`` runs this. Nothing is around them, so that they can be compared with the machine's best matrix
product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from bench_layers import SETTINGS, blocks, needed_gflop
from cases import EAGER_FACTOR, TOLERANCE, Case, relative_error
from raw import RawRun
from torch import Tensor

from fastgan import _native
from fastgan.ops.blocks import Block, Conv, Parameters
from fastgan.proof import EXACT_BATCH, interleaved

PASSES = ("forward", "dgrad", "wgrad")


@dataclass(frozen=True)
class Convolution:
    """One block's, on tensors of its own: ``input`` and ``grad_output`` [N, C, H, W], ``weight`` as torch has it."""

    transposed: bool
    stride: tuple[int, int]
    padding: tuple[int, int]
    input: Tensor
    weight: Tensor
    grad_output: Tensor
    allow_tf32: bool = False

    @classmethod
    def of(
        cls, case: Case, batch: int, dtype: torch.dtype, format: torch.memory_format, device: str = "cpu"
    ) -> Convolution:
        torch.manual_seed(0)
        transposed = case.op == "conv_transpose_bn_act"
        stride, padding = case.options["stride"], case.options["padding"]
        input = torch.randn(batch, *case.input[1:])
        weight = torch.randn(case.tensors["weight"]) * 0.05
        output = torch.convolution(input, weight, None, stride, padding, (1, 1), transposed, (0, 0), 1)
        tensors = (t.to(device, dtype, memory_format=format) for t in (input, weight, torch.randn_like(output)))
        return cls(transposed, stride, padding, *tensors)

    def as_dtype(self, dtype: torch.dtype) -> Convolution:
        tensors = (t.to(dtype) for t in (self.input, self.weight, self.grad_output))
        return type(self)(self.transposed, self.stride, self.padding, *tensors)

    def torch(self, which: str) -> Tensor:
        options = (self.stride, self.padding, (1, 1), self.transposed, (0, 0), 1)
        if which == "forward":
            return torch.convolution(self.input, self.weight, None, *options)
        wanted = [which == "dgrad", which == "wgrad", False]
        found = torch.ops.aten.convolution_backward(self.grad_output, self.input, self.weight, None, *options, wanted)
        return found[wanted.index(True)]

    def fastgan(self, which: str) -> Tensor:
        if which == "forward":
            return self._forward().output
        (gradient,) = self._run.gradients(self.grad_output, 0 if which == "dgrad" else 1)
        return gradient

    @cached_property
    def _run(self) -> RawRun:  # of which its gradients are timed
        return self._forward()

    def _forward(self) -> RawRun:
        conv = Conv(self.stride, self.padding, (1, 1), 1, self.transposed)
        return RawRun(self.input, [Block(conv, None, 0, 0.0)], [Parameters(self.weight)], allow_tf32=self.allow_tf32)


def check(small: Convolution, which: str) -> float:
    """The error against float64, or AssertionError: a fast wrong answer is no answer."""
    dtype, truth = small.input.dtype, small.as_dtype(torch.float64).torch(which)
    error, eager = (relative_error(value, truth) for value in (small.fastgan(which), small.torch(which)))
    bar = max(TOLERANCE.get(dtype, 1e-4), EAGER_FACTOR[dtype] * eager)
    assert error <= bar, f"{which} is {error:.1e} from float64, where {bar:.1e} is allowed"
    return error


def measure(batch_size: int, width: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each precision, convolution and pass: milliseconds of torch and fastgan, taking turns, and GFLOP."""
    rows = []
    for precision, (dtype, format) in SETTINGS.items():
        for case in blocks(batch_size, width):
            small = Convolution.of(case, min(batch_size, EXACT_BATCH), dtype, format)
            whole = Convolution.of(case, batch_size, dtype, format)
            calls: dict[tuple[str, str], Callable[[], Any]] = {}
            found = {}
            for which in PASSES:
                calls[which, "torch.nn"] = lambda whole=whole, which=which: whole.torch(which)
                calls[which, "fastgan.layers"] = lambda whole=whole, which=which: whole.fastgan(which)
                error = check(small, which)
                _native.reset_counters()
                whole.fastgan(which)
                found[which] = {"error": error, "kernels": _native.counters()}
            seconds = interleaved(calls, rounds)
            common = {"precision": precision, "layer": case.name, "gflop": needed_gflop(case) / len(PASSES)}
            for which in PASSES:
                ms = {name: 1e3 * seconds[which, name] for name in ("torch.nn", "fastgan.layers")}
                rows.append({**common, "pass": which, **found[which], "ms": ms})
    return rows
