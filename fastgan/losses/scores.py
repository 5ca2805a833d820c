"""Losses of scores: the discriminator's output is any number, the higher the more real, and no sigmoid follows it.

Outputs are [N, ...], of one shape for real and for generated images; losses are computed in float32 or wider.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.losses.cross_entropy import check_shapes
from fastgan.ops._meta import accumulate_dtype

__all__ = [
    "ScoreLoss",
    "hinge_discriminator",
    "least_squares_discriminator",
    "least_squares_generator",
    "score_generator",
    "wasserstein_discriminator",
]


class ScoreLoss(NamedTuple):
    """What a loss of scores gives, in the order of :class:`fastgan.ops.bce.AdversarialBCE`."""

    loss: Tensor
    """0-d: the sum of ``losses``. The only part with a gradient."""
    losses: Tensor
    """[1 or 2]: its terms, of real images first."""
    score: Tensor
    """[1 or 2]: the mean of the outputs, of real images first."""


def hinge_discriminator(output_real: Tensor, output_fake: Tensor) -> ScoreLoss:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))].

    Lim and Ye, "Geometric GAN", 2017, https://arxiv.org/abs/1705.02894.
    """
    real, fake = _widened(output_real, output_fake)
    return _result((1 - real).relu().mean(), (1 + fake).relu().mean(), scores=(real, fake))


def least_squares_discriminator(output_real: Tensor, output_fake: Tensor) -> ScoreLoss:
    """1/2 E[(D(x) - 1)^2] + 1/2 E[D(G(z))^2].

    Mao et al., "Least Squares Generative Adversarial Networks", 2017, https://arxiv.org/abs/1611.04076, equation 9.
    """
    real, fake = _widened(output_real, output_fake)
    return _result((real - 1).square().mean() / 2, fake.square().mean() / 2, scores=(real, fake))


def least_squares_generator(output_fake: Tensor) -> ScoreLoss:
    """1/2 E[(D(G(z)) - 1)^2]; see :func:`least_squares_discriminator`."""
    (fake,) = _widened(output_fake)
    return _result((fake - 1).square().mean() / 2, scores=(fake,))


def wasserstein_discriminator(output_real: Tensor, output_fake: Tensor) -> ScoreLoss:
    """E[D(G(z))] - E[D(x)]; minus it estimates the Wasserstein distance where D is 1-Lipschitz.

    Arjovsky et al., "Wasserstein GAN", 2017, https://arxiv.org/abs/1701.07875.
    """
    real, fake = _widened(output_real, output_fake)
    return _result(-real.mean(), fake.mean(), scores=(real, fake))


def score_generator(output_fake: Tensor) -> ScoreLoss:
    """-E[D(G(z))]: the generator's side of the hinge and of the Wasserstein loss."""
    (fake,) = _widened(output_fake)
    return _result(-fake.mean(), scores=(fake,))


def _widened(*outputs: Tensor) -> list[Tensor]:
    check_shapes(outputs[0], outputs[-1])
    return [output.to(accumulate_dtype(output.dtype)) for output in outputs]


def _result(*losses: Tensor, scores: tuple[Tensor, ...]) -> ScoreLoss:
    terms = torch.stack(losses)
    return ScoreLoss(terms.sum(), terms.detach(), torch.stack([score.detach().mean() for score in scores]))
