"""The averaged generator."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA:
    """An exponential moving average of a network's parameters and floating-point buffers.

    The running statistics of batch-norm are averaged with the weights that made them; without that, the averaged
    network shows washed-out images. Whole-number buffers are copied. Over the first updates the decay is (1 + t) / (10
    + t), so that the start weights are soon forgotten.

    Args:
        module: the network; ``EMA.module`` is a copy of it, in eval mode, that asks for no gradients.
        decay: the part of the average that an update keeps, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the state of ``module`` as it is now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for mean, value in zip(_state(self.module), _state(module), strict=True):
            if mean.is_floating_point():
                averaged.append(mean)
                current.append(value)
            else:
                mean.copy_(value)
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - decay)


def _state(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for group in (module.parameters(), module.buffers()) for tensor in group]
