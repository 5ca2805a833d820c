"""Penalties on the gradient of the discriminator's output with respect to its images.

Both call the discriminator once more, in the mode that it is in: batch-norm counts that batch too, and with batch-norm
the gradient of one image depends on the others, which neither paper has in mind.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "r1_penalty"]


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E[(|grad D(y)| - 1)^2], 0-d and differentiable, at y drawn evenly between each pair of images.

    Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, https://arxiv.org/abs/1704.00028.

    Args:
        discriminator: images to outputs.
        real, fake: as many real as generated images, [N, C, H, W]; no gradient flows to them.
    """
    place = torch.rand(len(real), *(1,) * (real.dim() - 1), dtype=real.dtype, device=real.device)
    norms = _gradients(discriminator, torch.lerp(fake.detach().to(real.dtype), real.detach(), place)).norm(dim=1)
    return (norms - 1).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """E[|grad D(x)|^2], 0-d and differentiable.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, https://arxiv.org/abs/1801.04406,
    who multiply it by gamma / 2.

    Args:
        discriminator: images to outputs.
        real: images [N, C, H, W]; no gradient flows to them.
    """
    return _gradients(discriminator, real).square().sum(1).mean()


def _gradients(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """[N, C H W]: for each image the gradient of its output."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.flatten(1)
