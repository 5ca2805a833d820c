"""No argument may crash the process: right calls of the raw operators with some arguments made wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch
from cases import CASES
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import ops

CALLS = 4000


class Recorder(TorchDispatchMode):
    """Every call of a fastgan operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastgan":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def right_calls() -> list[tuple]:
    """One call of each operator for each of the sample inputs."""
    with Recorder() as recorder:
        for case in CASES:
            for dtype in (torch.float32, torch.bfloat16):
                input, tensors, buffers = case.sample(dtype)
                if case.op == "batch_norm_act" and not buffers:
                    buffers = {"running_mean": None, "running_var": None}
                output = case.function(input.requires_grad_(), **tensors, **buffers, **case.options)
                output.float().sum().backward()
        for probabilities in (torch.rand(6, requires_grad=True), torch.rand(4, 3, requires_grad=True)):
            ops.bce(probabilities, torch.ones_like(probabilities)).backward()
            ops.adversarial_bce(probabilities, (1, 0)).loss.backward()
    return recorder.calls


def wrong(value, draw: random.Random):
    """Another value of about the same kind."""
    if isinstance(value, torch.Tensor) or value is None:
        choices = [None, torch.empty(0), torch.zeros(()), torch.zeros(3), torch.zeros(2, 3, 4, 4), torch.zeros(1, 1, 1)]
        if isinstance(value, torch.Tensor):
            choices += [value.to(torch.int64), value.to(torch.float16), value[:0] if value.dim() else value]
            choices += [value.transpose(0, -1) if value.dim() > 1 else value.reshape(-1, 1), value.to("meta")]
            choices += [value[:1].expand(value.shape) if value.dim() and value.numel() else value]
            choices += [torch.cat([value.reshape(-1)] * 2)]
        return draw.choice(choices)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice([-(2**40), -1, 0, 1, 2, 3, 5, 7, 2**40])
    if isinstance(value, float):
        return draw.choice([-1.0, 0.0, 1e30, float("nan"), float("inf")])
    if isinstance(value, (list, tuple)):
        changed = [wrong(item, draw) if draw.random() < 0.5 else item for item in value]
        return changed[: draw.choice([0, 1, 2, 2, 2])] + [3] * draw.choice([0, 0, 0, 1])
    return value


def call_wrongly() -> None:
    draw = random.Random(0)
    calls = right_calls()
    for _ in range(CALLS):
        func, args = draw.choice(calls)
        args = [arg.detach().clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        for _ in range(draw.choice([1, 1, 2, 3])):
            at = draw.randrange(len(args))
            args[at] = wrong(args[at], draw)
        try:
            func(*args)
        except Exception:  # any error will do, a crash will not
            continue


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_wrong_arguments_are_errors_and_nothing_worse(engine):
    environment = {**os.environ, "FASTGAN_ENGINE": engine, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-X", "faulthandler", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    call_wrongly()
