"""The two players' objectives, by name.

objective = losses.objective("hinge")
loss, terms, means = objective.discriminator(discriminator(real), discriminator(fake.detach()))
loss, terms, means = objective.generator(discriminator(fake))

With the cross-entropies, "non_saturating" and "minimax", the discriminator gives logits (or probabilities), and
``means`` are the means of D(x) and D(G(z)), the probability of real. With "hinge", "least_squares" and "wgan_gp" it
gives scores, and ``means`` are the means of the scores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fastgan.errors import UserError
from fastgan.losses.cross_entropy import discriminator, minimax, non_saturating
from fastgan.losses.penalties import gradient_penalty, r1_penalty
from fastgan.losses.scores import (
    ScoreLoss,
    hinge_discriminator,
    least_squares_discriminator,
    least_squares_generator,
    score_generator,
    wasserstein_discriminator,
)
from fastgan.ops.bce import AdversarialBCE

__all__ = [
    "CROSS_ENTROPIES",
    "LOSSES",
    "Objective",
    "ScoreLoss",
    "discriminator",
    "gradient_penalty",
    "hinge_discriminator",
    "least_squares_discriminator",
    "least_squares_generator",
    "minimax",
    "non_saturating",
    "objective",
    "r1_penalty",
    "score_generator",
    "wasserstein_discriminator",
]

Loss = AdversarialBCE | ScoreLoss


class Objective(NamedTuple):
    """The losses of the two players, with their options bound."""

    discriminator: Callable[[Tensor, Tensor], Loss]
    generator: Callable[[Tensor], Loss]


CROSS_ENTROPIES: dict[str, Callable[..., AdversarialBCE]] = {"non_saturating": non_saturating, "minimax": minimax}
"""The generator's side by name; the discriminator's is the same for both."""

_OF_SCORES = {
    "hinge": Objective(hinge_discriminator, score_generator),
    "least_squares": Objective(least_squares_discriminator, least_squares_generator),
    "wgan_gp": Objective(wasserstein_discriminator, score_generator),
}

LOSSES = (*CROSS_ENTROPIES, *_OF_SCORES)
"""The names that :func:`objective` knows."""


def objective(loss: str = "non_saturating", *, label_smoothing: float = 0.0, from_logits: bool = True) -> Objective:
    """The losses of the two players by name; the penalty of "wgan_gp" is apart, :func:`gradient_penalty`.

    Args:
        loss: one of ``LOSSES``.
        label_smoothing: of the discriminator's target for real images; at least 0, below 0.5; cross-entropies only.
        from_logits: False for a discriminator that ends in a sigmoid; cross-entropies only.

    Raises:
        UserError: for another loss or smoothing, or options that do not go together.
    """
    check_options(loss, label_smoothing)
    if loss in CROSS_ENTROPIES:
        return Objective(
            functools.partial(discriminator, label_smoothing=label_smoothing, from_logits=from_logits),
            functools.partial(CROSS_ENTROPIES[loss], from_logits=from_logits),
        )
    if not from_logits:
        raise UserError(
            f"loss {loss!r} is one of scores, but the discriminator ends in a sigmoid; leave the sigmoid out, or "
            f"choose {' or '.join(CROSS_ENTROPIES)}."
        )
    return _OF_SCORES[loss]


def check_options(loss: str, label_smoothing: Any = 0.0) -> None:
    """Raises UserError for what :func:`objective` does not take."""
    if loss not in LOSSES:
        raise UserError(f"loss must be one of {', '.join(LOSSES)}, but it is {loss!r}; choose one of them.")
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing < 0.5:
        raise UserError(
            f"label_smoothing must be at least 0 and below 0.5, but it is {label_smoothing!r}; 0.1 is usual."
        )
    if label_smoothing and loss not in CROSS_ENTROPIES:
        raise UserError(
            f"label_smoothing is {label_smoothing:g}, but loss {loss!r} has no labels; leave it out, or choose "
            f"{' or '.join(CROSS_ENTROPIES)}."
        )


def check_r1(loss: str, r1_gamma: float) -> None:
    """Raises UserError where R1 does not go with a loss."""
    if r1_gamma and loss == "wgan_gp":
        raise UserError(
            f"r1_gamma is {r1_gamma:g}, but loss 'wgan_gp' has a gradient penalty of its own; leave r1_gamma out, or "
            "choose another loss."
        )
