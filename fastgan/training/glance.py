"""What one glance at a generator measures: its samples' diversity, its batch-norm, its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.training._latent import first_weight

__all__ = ["Glance"]

SAMPLES = 24  # images that are compared
SIDE = 32  # pixels a side at most: what images show, and not their noise


class Glance:
    """Measures a generator in training, and leaves it as it was.

    Args:
        generator: in training mode.
        latents: [N, ...], of which 24 are used, evenly from the first to the last.
        labels: int64 [N], of a generator that takes such.
    """

    def __init__(self, generator: nn.Module, latents: Tensor, labels: Tensor | None = None) -> None:
        weight = first_weight(generator)
        chosen = torch.linspace(0, len(latents) - 1, min(SAMPLES, len(latents))).long()  # of all classes
        self._generator, self._count = generator, len(chosen)
        self._inputs = [latents[chosen].to(weight.device, weight.dtype)]
        if labels is not None:
            self._inputs.append(labels[chosen].to(weight.device))
        self._has_statistics = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in generator.modules()
        )
        self._real = torch.empty(0)
        self._distinct = False

    @torch.no_grad()
    def collect(self, real: Tensor) -> None:
        """Takes images [N, C, H, W] of the data, until there are as many as are compared."""
        missing = self._count - len(self._real)
        if missing > 0:
            part = _small(real[:missing])
            self._real = torch.cat([self._real, part]) if len(self._real) else part
            if len(self._real) == self._count:
                self._distinct = bool((_distances(self._real) > 0).all())

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """0-d tensors, without waiting for the device; NaN where something cannot be measured (yet).

        ``diversity``: the mean distance of a sample from the nearest other one, divided by that of real images; where
        these are not all distinct, of all pairs. ``gap``: the mean distance of a latent's image in train mode from that
        in eval mode, divided by ``spread``, the mean distance of two real images. ``gradient``: the root mean square of
        the generator's gradient.

        Distances are Euclidean, of images of at most 32x32 pixels.
        """
        with _restored(self._generator):
            samples = _small(self._generator(*self._inputs))
            self._generator.eval()
            evaluated = _small(self._generator(*self._inputs)) if self._has_statistics else samples
        nothing = samples.new_tensor(torch.nan)
        measures = dict.fromkeys(("diversity", "gap", "spread"), nothing)
        if len(self._real) == self._count:
            measures["diversity"] = self._diversity(samples) / self._diversity(self._real)
            measures["spread"] = _distances(self._real).mean()
            measures["gap"] = (samples - evaluated).norm(dim=1).mean() / measures["spread"]
        return measures | {"gradient": _gradient(self._generator, nothing)}

    def _diversity(self, images: Tensor) -> Tensor:
        distances = _distances(images)
        return (distances.amin(1) if self._distinct else distances).mean()


def _small(images: Tensor) -> Tensor:
    """Images [N, C, H, W] of at most 32x32 pixels, float32 [N, C * h * w]."""
    sides = [min(side, SIDE) for side in images.shape[2:]]
    return F.adaptive_avg_pool2d(images.float(), sides).flatten(1)


def _distances(images: Tensor) -> Tensor:
    """The distances of each of N rows from the others, [N, N - 1]."""
    count = len(images)
    # Of differences, as the usual product of matrices makes two equal rows a small distance apart.
    distances = torch.cdist(images, images, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def _gradient(generator: nn.Module, nothing: Tensor) -> Tensor:
    gradients = [parameter.grad for parameter in generator.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros_like(nothing)
    norm = torch.stack([part.float() for part in torch._foreach_norm(gradients)]).norm()
    return norm / sum(gradient.numel() for gradient in gradients) ** 0.5


@contextlib.contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Afterwards modes, buffers (running statistics) and the global random generators are what they were."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    device = first_weight(module).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for part, training in modes:
            part.training = training
        for buffer, kept in buffers:
            buffer.copy_(kept)
