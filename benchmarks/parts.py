"""Where the time of a training step goes: {part: seconds}, for torch eager and for fastgan.

Of eager every operator is timed as the dispatcher hands it out, of fastgan every kernel by the library's own counters.
A profiler could not tell eager's data gradients from its weight gradients: one operator computes both. Here it is
called once for each, as it works inside anyway.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bench_step import FORMATS
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import _native
from fastgan.proof import Proof

PARTS = ("conv fwd", "dgrad", "wgrad", "norm+act", "loss", "optimizer", "other")
SETTINGS = (("float32", "contiguous"), ("bfloat16", "channels_last"))
CONTENDERS = ("torch.nn", "fastgan.layers", "AdversarialStep")

# By what an operator's or a kernel's name contains; the first that fits. What remains is "other".
_ATEN = {
    "binary_cross_entropy": "loss",
    "convolution": "conv fwd",
    "batch_norm": "norm+act",
    "relu": "norm+act",
    "threshold": "norm+act",
    "tanh": "norm+act",
    "sigmoid": "norm+act",
}
_KERNELS = {
    "bn_act/forward": "conv fwd",
    "backward_dgrad": "dgrad",
    "backward_wgrad": "wgrad",
    "batch_norm_act/": "norm+act",
    "activation/": "norm+act",
    "bce": "loss",
}


def measure(proof: Proof) -> list[dict[str, Any]]:
    """A row for each precision and contender: the parts' milliseconds, of the step whose whole time is the median."""
    rows = []
    for precision, format in SETTINGS:
        steps = proof.contenders(precision, FORMATS[format], compiled=False).steps
        for name in CONTENDERS:
            times = [step_parts(steps[name], native=name != "torch.nn") for _ in range(proof.rounds + 1)][1:]
            times.sort(key=lambda parts: sum(parts.values()))
            ms = {part: 1e3 * seconds for part, seconds in times[len(times) // 2].items()}
            rows.append({"precision": precision, "format": format, "contender": name, "ms": ms})
    return rows


def step_parts(step: Callable[[], object], native: bool) -> dict[str, float]:
    """Seconds of each part of one call; ``native`` where fastgan's kernels do the work."""
    seconds: dict[str, float] = defaultdict(float)
    with _timed_optimizers(seconds):
        begin = time.perf_counter()
        if native:
            _native.reset_counters()
            with _native.timed_kernels():
                step()
        else:
            step()
        total = time.perf_counter() - begin
    if native:
        for kernel, taken in _native.kernel_seconds().items():
            seconds[_part_of(kernel, _KERNELS)] += taken
    else:  # in a second step: handing out every operator through Python takes time that must not be in the total
        operators: dict[str, float] = defaultdict(float)
        with _timed_optimizers(operators), _TimedOperators(operators):
            step()
        seconds |= operators | {"optimizer": seconds["optimizer"]}
    found = {part: seconds[part] for part in PARTS[:-1]}
    return found | {"other": max(0.0, total - sum(found.values()))}


class _TimedOperators(TorchDispatchMode):
    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self.seconds = seconds

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            return self._convolution_backward(*args)
        return self._timed(_part_of(function.name(), _ATEN), function, *args, **(kwargs or {}))

    def _convolution_backward(self, *args: Any) -> list[Any]:
        *given, mask = args
        gradients: list[Any] = [None] * 3
        for i, part in enumerate(("dgrad", "wgrad", "wgrad")):
            if mask[i]:
                only = [i == j for j in range(3)]
                gradients[i] = self._timed(part, torch.ops.aten.convolution_backward.default, *given, only)[i]
        return gradients

    def _timed(self, part: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            if self.seconds["optimizer"] >= 0:  # else inside one, which is timed as a whole
                self.seconds[part] += time.perf_counter() - begin


@contextmanager
def _timed_optimizers(seconds: dict[str, float]) -> Iterator[None]:
    # Negative while one runs: less the time it began at.
    def begin(*_: Any) -> None:
        seconds["optimizer"] -= time.perf_counter()

    def end(*_: Any) -> None:
        seconds["optimizer"] += time.perf_counter()

    handles = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _part_of(name: str, parts: dict[str, str]) -> str:
    return next((part for text, part in parts.items() if text in name), "other")
