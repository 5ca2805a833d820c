"""The two players' objectives: cross-entropy as in Goodfellow et al., "Generative Adversarial Nets", 2014.

https://arxiv.org/abs/1406.2661. D(x) is the probability that x is real: the discriminator's output itself where
``from_logits`` is False, and its sigmoid otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import ops
from fastgan.errors import UserError
from fastgan.ops.bce import AdversarialBCE

__all__ = ["GENERATOR_LOSSES", "Objective", "discriminator", "minimax", "non_saturating", "objective"]


def discriminator(
    output_real: Tensor, output_fake: Tensor, *, label_smoothing: float = 0.0, from_logits: bool = True
) -> AdversarialBCE:
    """What the discriminator minimises: -E[log D(x)] - E[log(1 - D(G(z)))].

    With ``label_smoothing`` s (one-sided, Salimans et al., 2016, https://arxiv.org/abs/1606.03498) the first term is
    -E[(1 - s) log D(x) + s log(1 - D(x))].

    Args:
        output_real, output_fake: what it says of real and of generated images, of one shape [N, ...].

    Returns:
        ``loss``, 0-d; ``losses`` [2], its two terms; ``probability`` [2], the means of D(x) and of D(G(z)).

    Raises:
        UserError: where the shapes differ.
    """
    if output_real.shape != output_fake.shape:
        raise UserError(
            f"output_fake must have the shape of output_real, {list(output_real.shape)}, but it has "
            f"{list(output_fake.shape)}; judge as many generated images as real ones."
        )
    return ops.adversarial_bce(
        torch.cat([output_real, output_fake]), targets=(1.0 - label_smoothing, 0.0), from_logits=from_logits
    )


def non_saturating(output_fake: Tensor, *, from_logits: bool = True) -> AdversarialBCE:
    """What the generator minimises in practice: -E[log D(G(z))].

    It has the fixed point of :func:`minimax`, and strong gradients where the discriminator wins.

    Args:
        output_fake: what the discriminator says of generated images, [N, ...].
    """
    return ops.adversarial_bce(output_fake, targets=(1.0,), from_logits=from_logits)


def minimax(output_fake: Tensor, *, from_logits: bool = True) -> AdversarialBCE:
    """What the generator minimises in the two-player game itself: E[log(1 - D(G(z)))].

    Args:
        output_fake: what the discriminator says of generated images, [N, ...].
    """
    return ops.adversarial_bce(output_fake, targets=(0.0,), weights=(-1.0,), from_logits=from_logits)


GENERATOR_LOSSES: dict[str, Callable[..., AdversarialBCE]] = {"non_saturating": non_saturating, "minimax": minimax}


class Objective(NamedTuple):
    """The losses of the two players, with their options bound."""

    discriminator: Callable[[Tensor, Tensor], AdversarialBCE]
    generator: Callable[[Tensor], AdversarialBCE]


def objective(loss: str = "non_saturating", *, label_smoothing: float = 0.0, from_logits: bool = True) -> Objective:
    """The losses of the two players by the name of the generator's.

    Args:
        loss: "non_saturating" or "minimax".
        label_smoothing: of the discriminator's target for real images; at least 0, below 0.5.
        from_logits: False for a discriminator that ends in a sigmoid.

    Raises:
        UserError: for another loss or smoothing.
    """
    check_options(loss, label_smoothing)
    return Objective(
        functools.partial(discriminator, label_smoothing=label_smoothing, from_logits=from_logits),
        functools.partial(GENERATOR_LOSSES[loss], from_logits=from_logits),
    )


def check_options(loss: str, label_smoothing: float) -> None:
    """Raises UserError for what :func:`objective` does not take."""
    if loss not in GENERATOR_LOSSES:
        raise UserError(f"loss must be one of {', '.join(GENERATOR_LOSSES)}, but it is {loss!r}; choose one of them.")
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing < 0.5:
        raise UserError(
            f"label_smoothing must be at least 0 and below 0.5, but it is {label_smoothing!r}; 0.1 is usual."
        )
