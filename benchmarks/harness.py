"""One set-up for every provider: torch eager, torch.compile and fastgan, on the same sample.

Of the operators pytest-benchmark times each provider by itself and prints a group for each case. Neighbours on a shared
machine make single times unreliable, so the speedup that is recorded comes from rounds in which all take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cases import EAGER_FACTOR, TOLERANCE, Case, evaluate, relative_error
from torch.utils.flop_counter import FlopCounterMode

from fastgan import _native
from fastgan.proof import AUTOCAST, interleaved

PROVIDERS = ["eager", "compile", "fastgan"]
MODES = ["forward", "forward_backward"]


@dataclass(frozen=True)
class Bench:
    """One row: a case, and in which dtype and memory format it runs."""

    case: Case
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.channels_last

    def __str__(self) -> str:
        format = "nhwc" if self.memory_format == torch.channels_last else "nchw"
        shape = "x".join(map(str, self.case.input))
        return f"{self.case.op}-{self.case.name}-{shape}-{str(self.dtype).removeprefix('torch.')}-{format}"

    def call(self, function: Callable, mode: str) -> Callable[[], object]:
        """What is timed."""
        input, tensors, buffers = self.case.sample(self.dtype, self.memory_format)
        if self.case.op == "batch_norm_act" and not buffers:
            buffers = {"running_mean": None, "running_var": None}
        leaves = [input, *tensors.values()]
        options = {**tensors, **buffers, **self.case.options}
        if mode == "forward":

            def forward():
                with torch.no_grad():
                    return function(input, **options)

            return forward
        for leaf in leaves:
            leaf.requires_grad_()
        grad = torch.randn_like(function(input, **options))

        def forward_backward():
            return torch.autograd.grad(function(input, **options), leaves, grad)

        return forward_backward


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(64 << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 10)["copy"]
    return 2 * source.numel() / seconds


def peaks() -> dict[str, float]:
    """What the machine can do: GFLOP/s by precision (see ``_native.gemm_peak``), and GB/s of a large copy."""
    return {**{name: _native.gemm_peak(name) for name in AUTOCAST}, "copy": copy_bandwidth() * 1e-9}


def gflop(call: Callable[[], object]) -> float:
    """Of the convolutions that a call computes, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() * 1e-9


def check_error(bench: Bench) -> dict[str, float]:
    """A fast wrong answer is no answer: the error against float64 comes first. Returns it, by tensor."""
    case, dtype, format = bench.case, bench.dtype, bench.memory_format
    found = evaluate(case.function, case, dtype, format, 1)
    eager = evaluate(case.reference, case, dtype, format, 1)
    truth = evaluate(case.reference, case, dtype, format, 1, as_dtype=torch.float64)
    errors = {name: relative_error(value, truth[name]) for name, value in found.items()}
    for name, error in errors.items():
        bar = max(TOLERANCE.get(dtype, 1e-4), EAGER_FACTOR[dtype] * relative_error(eager[name], truth[name]))
        assert error <= bar, f"{bench}: {name} is {error:.1e} from float64, where {bar:.1e} is allowed"
    return errors
