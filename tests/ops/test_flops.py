"""FlopCounterMode counts fused networks as it counts torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastgan import layers

NETWORKS = {
    "generator": lambda nn: [
        nn.ConvTranspose2d(7, 16, 4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    ],
    "discriminator": lambda nn: [
        nn.Conv2d(7, 16, (3, 2), 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1, groups=4, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 8, 1, padding=1, dilation=2),
        nn.BatchNorm2d(8),
        nn.Sigmoid(),
    ],
}


def flops(network: nn.Module, input: torch.Tensor, backward: bool) -> tuple[int, set[str]]:
    """The count, and the namespaces of the operators that it is made of."""
    with FlopCounterMode(display=False) as counter:
        output = network(input)
        if backward:
            output.sum().backward()
    return counter.get_total_flops(), {str(op).split(".")[0] for op in counter.get_flop_counts()["Global"]}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("needs_input", [False, True])
@pytest.mark.parametrize("frozen", [(), (0,), (0, 3)], ids=str)
def test_a_fused_network_counts_as_its_twin(network, needs_input, frozen):
    ours, twin = layers.Sequential(*network(layers)), nn.Sequential(*network(nn))
    for i in frozen:
        ours[i].requires_grad_(False)
        twin[i].requires_grad_(False)
    input = torch.randn(2, 7, 9, 8)
    for backward in (False, True):
        leaves = [input.clone().requires_grad_(needs_input) for _ in range(2)]
        count, namespaces = flops(ours, leaves[0], backward)
        assert namespaces == {"fastgan"}
        assert (count, {"aten"}) == flops(twin, leaves[1], backward)


def test_importing_the_counter_is_left_to_who_counts():
    code = """
import sys, torch, fastgan.layers
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    fastgan.layers.Sequential(fastgan.layers.Conv2d(1, 1, 1), fastgan.layers.ReLU())(torch.ones(1, 1, 1, 1))
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr
