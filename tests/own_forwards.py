"""Modules of torch.nn whose own forwards call their layers, for the tests of fusing."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import _native


class Down(nn.Module):
    """Calls its children and a functional activation itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.leaky_relu(self.bn(self.conv(x)), 0.2)


class Residual(nn.Module):
    """Branches: no value that two nodes use may be fused away."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out += x
        return torch.relu(out) + out.tanh()


def nested():
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        Down(8, 16),
        Residual(16),
        nn.Conv2d(16, 1, 4),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Sigmoid(),
    )


class Optional(Down):
    def forward(self, x, y=None):
        return super().forward(x if y is None else x + y)


def image(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, dtype=dtype, generator=torch.Generator().manual_seed(1))


def results(network, x=None):
    """Output, gradients and buffers of a training step, and the output in eval mode."""
    x = (image() if x is None else x).clone().requires_grad_()
    network.train()
    output = network(x)
    output.square().sum().backward()
    found = {"output": output.detach(), "x": x.grad}
    found |= {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    found |= {name: b.clone() for name, b in network.named_buffers()}
    network.zero_grad()
    network.eval()
    with torch.no_grad():
        found["eval"] = network(x.detach())
    return found


def ran_natively() -> int:
    """Forwards and backwards of the block operators since the counters were reset, where the input wants a gradient."""
    passes = ("/forward_", "/backward_dgrad_")
    return sum(
        calls
        for name, calls in _native.counters().items()
        if name.startswith("conv") and any(part in name for part in passes)
    )


def twins(make=nested, dtype: torch.dtype = torch.float64):
    """A network, fused, and the same unfused."""
    torch.manual_seed(0)
    theirs = make().to(dtype)
    return fastgan.fuse(copy.deepcopy(theirs)), theirs
