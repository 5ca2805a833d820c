"""The cross-entropies on a discriminator's output: one number an image, and a patch discriminator's map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import MODES, PROVIDERS

from fastgan import _native, ops
from fastgan.proof import interleaved

SHAPES = [(128,), (64, 1, 30, 30)]


def _adversarial_eager(logits):
    """The discriminator's loss as the DCGAN tutorial writes it, with the mean probabilities that it prints."""
    real, fake = logits.chunk(2)
    loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    loss = loss + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return loss, real.detach().sigmoid().mean(), fake.detach().sigmoid().mean()


OPS: dict[str, dict[str, Any]] = {
    "bce": {"eager": lambda x: (F.binary_cross_entropy(x.sigmoid(), torch.ones_like(x)),)},
    "bce_with_logits": {"eager": lambda x: (F.binary_cross_entropy_with_logits(x, torch.ones_like(x)),)},
    "adversarial_bce": {"eager": _adversarial_eager},
}
OPS["bce"]["fastgan"] = lambda x: (ops.bce(x.sigmoid(), torch.ones_like(x)),)
OPS["bce_with_logits"]["fastgan"] = lambda x: (ops.bce_with_logits(x, torch.ones_like(x)),)
OPS["adversarial_bce"]["fastgan"] = lambda x: ops.adversarial_bce(x, (1, 0))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_bce(benchmark, op, shape, mode, provider):
    benchmark.group = f"{op}-{'x'.join(map(str, shape))}-float32 {mode}"
    logits = torch.randn(shape)

    def call_of(function):
        if mode == "forward":
            return lambda: function(logits)
        leaf = logits.clone().requires_grad_()
        return lambda: torch.autograd.grad(function(leaf)[0], leaf)

    eager = OPS[op]["eager"]
    call = call_of(torch.compile(eager) if provider == "compile" else OPS[op][provider])
    call()
    _native.reset_counters()
    benchmark(call)
    if provider == "fastgan":
        torch.testing.assert_close(OPS[op]["fastgan"](logits)[0], eager(logits)[0])
        assert any(name.startswith(op.split("_with")[0]) for name in _native.counters())
        medians = interleaved({"eager": call_of(eager), "fastgan": call})
        benchmark.extra_info["speedup_over_eager"] = medians["eager"] / medians["fastgan"]
