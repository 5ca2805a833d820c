"""Modules of torch.nn whose own forwards call their layers, for the tests of fusing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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
