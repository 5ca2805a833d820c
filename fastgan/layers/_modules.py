"""The single modules that ``Sequential`` fuses."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgan.layers  # whose _chain imports this module
from fastgan.layers import _gate


class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d``; fused with what follows it inside :class:`fastgan.layers.Sequential`."""


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d``; fused with what follows it inside :class:`fastgan.layers.Sequential`."""


class ReLU(torch.nn.ReLU):
    """``torch.nn.ReLU``; fused with what precedes it inside :class:`fastgan.layers.Sequential`."""


class LeakyReLU(torch.nn.LeakyReLU):
    """``torch.nn.LeakyReLU``; fused with what precedes it inside :class:`fastgan.layers.Sequential`."""


class BatchNorm2d(torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` on the native kernel; fused with its neighbours in :class:`Sequential`."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        if not _gate.is_open(input) or input.dim() != 4:
            traced = _gate.leaf(self, input)
            return super().forward(input) if traced is None else traced
        return fastgan.layers._chain.run_alone(input, self)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return _gate.as_torch(self, torch.nn.BatchNorm2d)
