"""The activations that operators fuse, by name and by the number their schemas use."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.errors import UserError

Activation = Literal["none", "relu", "leaky_relu", "tanh", "sigmoid"]

# The same table stands in csrc/common/activation.h.
NUMBERS: dict[str, int] = {"none": 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4}
_NAMES = {number: name for name, number in NUMBERS.items()}


def number_of(name: str) -> int:
    """The schema's number of an activation's name."""
    try:
        return NUMBERS[name]
    except KeyError:
        raise UserError(f"activation={name!r} is unknown; choose one of {', '.join(NUMBERS)}.") from None


def apply(input: Tensor, number: int, negative_slope: float) -> Tensor:
    """The activation in plain torch."""
    match _NAMES[number]:
        case "relu":
            return torch.relu(input)
        case "leaky_relu":
            return F.leaky_relu(input, negative_slope)
        case "tanh":
            return torch.tanh(input)
        case "sigmoid":
            return torch.sigmoid(input)
    return input
