"""Transposed convolution, batch-norm and ReLU: a middle layer of DCGAN's generator. The convolution is torch's own."""

import pytest
import torch
from cases import Case
from harness import MODES, PROVIDERS, Bench

_CASE = Case(
    "128to64",
    "conv_transpose_bn_act",
    (16, 128, 16, 16),
    {"weight": (128, 64, 4, 4), "bn_weight": (64,), "bn_bias": (64,)},
    {"stride": 2, "padding": 1, "activation": "relu"},
    64,
)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
def test_conv_transpose_bn_act(measure, mode, provider):
    measure(Bench(_CASE, torch.float32), mode, provider)
