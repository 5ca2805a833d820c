"""What a step cannot be given, in sentences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UserError

__all__ = ["check_counts", "check_labels", "check_optimizers", "check_weights"]


def check_counts(**counts: Any) -> None:
    """Raises UserError where one of these, by name, is no whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, but it is {value!r}; give such a one.")


def check_weights(**weights: Any) -> None:
    """Raises UserError where one of these, by name, is no number of at least 0."""
    for name, value in weights.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise UserError(f"{name} must be a number of at least 0, but it is {value!r}; give such a one.")


def check_optimizers(**given: tuple[Any, str, nn.Module]) -> None:
    """Raises UserError where one of these, (optimizer, what its network is called, network) by name, holds no parameter
    of its network. Wrapped networks have the parameters of what they wrap.
    """
    for name, (optimizer, owner, network) in given.items():
        if not all(hasattr(optimizer, part) for part in ("param_groups", "step", "zero_grad")):
            raise UserError(
                f"{name} must be an optimizer of the {owner}'s parameters, but it is a {type(optimizer).__name__}; "
                f"give such as torch.optim.Adam({owner}.parameters())."
            )
        own = {id(parameter) for parameter in network.parameters()}
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if own and not own & held:
            raise UserError(
                f"{name} holds none of the {owner}'s parameters, so that it would never learn; give {name} an "
                f"optimizer of {owner}.parameters(), the generator's optimizer first."
            )


def check_labels(labels: Tensor, real: Tensor) -> None:
    """Raises UserError where these are no classes of the real images."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != real.shape[:1]:
        given = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        raise UserError(f"labels must be int64 [{len(real)}], one for each image, but they are {given}; give such.")
