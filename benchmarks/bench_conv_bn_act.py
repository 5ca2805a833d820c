"""Convolution, batch-norm and LeakyReLU: a middle layer of DCGAN's discriminator. The convolution is torch's own."""

import pytest
import torch
from cases import Case
from harness import MODES, PROVIDERS, Bench

_CASE = Case(
    "64to128",
    "conv_bn_act",
    (16, 64, 32, 32),
    {"weight": (128, 64, 4, 4), "bn_weight": (128,), "bn_bias": (128,)},
    {"stride": 2, "padding": 1, "activation": "leaky_relu", "negative_slope": 0.2},
    128,
)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", MODES)
def test_conv_bn_act(measure, mode, provider):
    measure(Bench(_CASE, torch.float32), mode, provider)
