"""Cross-entropy, as in Goodfellow et al., "Generative Adversarial Nets", 2014.

https://arxiv.org/abs/1406.2661. D(x) is the probability that x is real: the discriminator's output itself where
``from_logits`` is False, and its sigmoid otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import ops
from fastgan.errors import UserError
from fastgan.ops.bce import AdversarialBCE

__all__ = ["discriminator", "minimax", "non_saturating"]


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
    check_shapes(output_real, output_fake)
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


def check_shapes(output_real: Tensor, output_fake: Tensor) -> None:
    """Raises UserError where they differ."""
    if output_real.shape != output_fake.shape:
        raise UserError(
            f"output_fake must have the shape of output_real, {list(output_real.shape)}, but it has "
            f"{list(output_fake.shape)}; judge as many generated images as real ones."
        )
