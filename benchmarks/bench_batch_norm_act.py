"""Batch-norm and activation: the shapes of DCGAN-64 at batch 64."""

import pytest
import torch
from cases import Case
from harness import MODES, PROVIDERS, Bench


def _rows(shape, dtype, memory_format=torch.channels_last, **options):
    channels = shape[1]
    options = {"training": True, "activation": "leaky_relu", "negative_slope": 0.2, **options}
    tensors = {"weight": (channels,), "bias": (channels,)}
    return Bench(Case(options["activation"], "batch_norm_act", shape, tensors, options, channels), dtype, memory_format)


ROWS = [
    _rows((64, 64, 32, 32), torch.bfloat16),
    _rows((64, 64, 32, 32), torch.float32),
    _rows((64, 64, 32, 32), torch.float32, torch.contiguous_format),
    _rows((64, 512, 4, 4), torch.float32),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bench", ROWS, ids=str)
def test_batch_norm_act(measure, bench, mode, provider):
    measure(bench, mode, provider)
