"""``Sequential`` that runs its chains of fusable modules as one operator each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from fastgan.layers import _gate
from fastgan.layers._chain import SEQUENTIAL_FORWARDS, run_modules


class Sequential(torch.nn.Sequential):
    """``torch.nn.Sequential`` that fuses ``[Conv2d | ConvTranspose2d] -> [BatchNorm2d]? -> [activation]?`` chains.

    Activations are ReLU, LeakyReLU, Tanh and Sigmoid. A maximal chain of such blocks is one autograd function, through
    Sequentials inside this one too. Torch's modules and fastgan's are fused alike; a module of any other type (a
    subclass too), or with a hook, runs by itself. :func:`fastgan.explain` says which do.
    """

    def forward(self, input: Tensor) -> Tensor:
        """What the modules one after another compute."""
        return run_sequential(self, None, input)

    def __prepare_scriptable__(self) -> Module:
        return _gate.as_torch(self, torch.nn.Sequential)


SEQUENTIAL_FORWARDS.add(Sequential.forward)


def run_sequential(sequential: torch.nn.Sequential, max_run: int | None, input: Tensor) -> Tensor:
    """A Sequential's forward with its chains fused, each of at most ``max_run`` blocks."""
    return run_modules(input, sequential, max_run)
