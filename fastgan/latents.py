"""Walks and sums in the space that a generator draws from.

a, b, c = gan.latents(3, seed=0)
gan.images_of(latents.path([a, b, c], steps=16, loop=True))    # a film from a to b to c and back
gan.images_of(latents.combine([a, b], minus=[c])[None])        # what a and b have, without what c has
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.errors import UserError

__all__ = ["combine", "path", "slerp", "truncate"]

PARALLEL = 1e-4  # radians, or less than that from half a turn: the arc's direction is lost in rounding


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The latent ``t`` of the way from ``a`` to ``b``, along an arc.

    Latents drawn from N(0, 1) have nearly equal lengths, and what lies on the straight line between two is shorter than
    any of them: the generator has never seen such. The arc turns from the one direction to the other, and the length
    goes evenly from one to the other. Where there is no single arc (opposite latents, or 0) it is a straight line.

    Args:
        a, b: latents of one shape.
        t: 0 gives a, 1 gives b; a number, or [...] for as many latents.

    Returns:
        [*t.shape, *a.shape].

    Raises:
        UserError: where the shapes differ.

    Source: Shoemake, "Animating Rotation with Quaternion Curves", 1985; White, "Sampling Generative Networks", 2016.
    """
    if a.shape != b.shape:
        raise UserError(f"a and b must have one shape, but they are {list(a.shape)} and {list(b.shape)}; give such.")
    shape, a, b = a.shape, a.flatten().double(), b.flatten().double()
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)[..., None]
    lengths = a.norm(), b.norm()
    angle = torch.acos((torch.dot(a, b) / (lengths[0] * lengths[1])).clamp(-1, 1))
    if PARALLEL < angle < math.pi - PARALLEL:
        direction = (torch.sin((1 - t) * angle) * a / lengths[0] + torch.sin(t * angle) * b / lengths[1]) / angle.sin()
        mixed = direction * torch.lerp(*lengths, t)
    else:  # also where a length is 0, and the angle a NaN
        mixed = torch.lerp(a, b, t)
    return mixed.float().unflatten(-1, shape)


def path(points: Tensor | Sequence[Tensor], steps: int, *, loop: bool = False) -> Tensor:
    """Latents on the arcs from each point to the next: [T, ...], the points among them.

    Args:
        points: [K, ...], K at least 2.
        steps: from one point to the next.
        loop: whether it goes on from the last point to the first; then the last latent is the step before the first, so
            that the film can be shown round and round.

    Raises:
        UserError: for fewer points or steps.
    """
    if len(points) < 2 or steps < 1:
        raise UserError(
            f"a path needs at least 2 points and 1 step, but it has {len(points)} and {steps}; give more of them."
        )
    t = torch.arange(steps) / steps
    ends = [*points[1:], points[0]] if loop else points[1:]
    arcs = [slerp(a, b, t) for a, b in zip(points, ends, strict=False)]
    return torch.cat(arcs if loop else [*arcs, points[-1][None].float()])


def combine(plus: Tensor | Sequence[Tensor], minus: Tensor | Sequence[Tensor] = ()) -> Tensor:
    """The sum of some latents less that of others, as long as latents usually are.

    The sum of several is longer than the generator has ever seen, so it is scaled to the square root of its number of
    elements, the length of nearly all latents from N(0, 1).

    Args:
        plus, minus: latents, [K, ...] or a list of [...].

    Returns:
        [...].

    Raises:
        UserError: where nothing is left.

    Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", 2016,
    section 6.3.2.
    """
    total = sum(plus) - sum(minus) if len(minus) else sum(plus)
    length = total.norm() if isinstance(total, Tensor) else 0.0
    if length == 0:
        raise UserError("plus and minus cancel out, which leaves no direction; give latents that do not.")
    return total * (math.sqrt(total.numel()) / length)


def truncate(latents: Tensor, most: float) -> Tensor:
    """Latents from N(0, 1) as such from the same distribution without what lies beyond ``most`` standard deviations.

    Each element goes to the same quantile of the truncated distribution, so that nothing is drawn anew. The fewer
    deviations, the more typical and the less various the images: the truncation trick of Brock, Donahue and Simonyan,
    "Large Scale GAN Training for High Fidelity Natural Image Synthesis", 2019.
    """
    part = torch.special.ndtr(torch.tensor(most, dtype=torch.float64)) - 0.5  # of the distribution, on either side
    quantile = torch.special.ndtr(latents.double()) - 0.5
    return torch.special.ndtri(0.5 + 2 * part * quantile).clamp(-most, most).to(latents.dtype)
