"""The two players' objectives: cross-entropy as in Goodfellow et al., "Generative Adversarial Nets", 2014.

https://arxiv.org/abs/1406.2661. D(x) is the probability that x is real: the discriminator's output itself where
``from_logits`` is False, and its sigmoid otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import ops
from fastgan.errors import UserError
from fastgan.ops.bce import AdversarialBCE

__all__ = ["GENERATOR_LOSSES", "Objective", "discriminator", "minimax", "non_saturating", "objective"]


def discriminator(
    output_real: Tensor, output_fake: Tensor, *, real_label: float = 1.0, from_logits: bool = True
) -> AdversarialBCE:
    """What the discriminator minimises: -E[log D(x)] - E[log(1 - D(G(z)))].

    With ``real_label`` t < 1 (one-sided label smoothing, Salimans et al., 2016, https://arxiv.org/abs/1606.03498) the first
    term is -E[t log D(x) + (1 - t) log(1 - D(x))].

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
        torch.cat([output_real, output_fake]), targets=(real_label, 0.0), from_logits=from_logits
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


def objective(loss: str = "non_saturating", *, real_label: float = 1.0, from_logits: bool = True) -> Objective:
    """The losses of the two players by the name of the generator's.

    Args:
        loss: "non_saturating" or "minimax".
        real_label: the discriminator's target for real images; below 1 for one-sided label smoothing.
        from_logits: False for a discriminator that ends in a sigmoid.

    Raises:
        UserError: for another name, or a label outside of (0.5, 1].
    """
    check_loss(loss, real_label)
    generator = GENERATOR_LOSSES[loss]
    return Objective(
        lambda real, fake: discriminator(real, fake, real_label=real_label, from_logits=from_logits),
        lambda fake: generator(fake, from_logits=from_logits),
    )


def check_loss(loss: str, real_label: float) -> None:
    """Raises UserError for what :func:`objective` does not take."""
    if loss not in GENERATOR_LOSSES:
        raise UserError(f"loss must be one of {', '.join(GENERATOR_LOSSES)}, but it is {loss!r}; choose one of them.")
    if not isinstance(real_label, (int, float)) or not 0.5 < real_label <= 1:
        raise UserError(
            f"real_label must be above 0.5 and at most 1, but it is {real_label!r}; 1 means no label smoothing, 0.9 is usual."
        )
