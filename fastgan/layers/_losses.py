"""The loss modules."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import ops
from fastgan.layers import _gate


class BCELoss(torch.nn.BCELoss):
    """``torch.nn.BCELoss`` on the native kernel: torch's formula with its clamp.

    Under autocast it computes in float32, where torch's refuses. :class:`BCEWithLogitsLoss` is the more exact choice.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Probabilities and targets of one shape -> the loss."""
        if not (_gate.is_open(input) and _gate.has_data(target, self.weight)):
            traced = _gate.leaf(self, input, target)
            return super().forward(input, target) if traced is None else traced
        return ops.bce(input, target, self.weight, self.reduction)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return _gate.as_torch(self, torch.nn.BCELoss)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """``torch.nn.BCEWithLogitsLoss`` on the native kernel."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits and targets of one shape -> the loss."""
        if not (_gate.is_open(input) and _gate.has_data(target, self.weight, self.pos_weight)):
            traced = _gate.leaf(self, input, target)
            return super().forward(input, target) if traced is None else traced
        return ops.bce_with_logits(input, target, self.weight, self.pos_weight, self.reduction)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return _gate.as_torch(self, torch.nn.BCEWithLogitsLoss)
