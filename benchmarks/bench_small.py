"""Whole networks of a few milliseconds, where what a call costs decides: torch, fastgan, and all of it fused.

``benchmarks/report.py`` runs this. fastgan's own rule leaves to torch what is too small to gain (``is_worth_fusing`` in
fastgan/ops/_engine.py); the third contender says what that spares.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import Module

import fastgan.layers
from fastgan import tutorial
from fastgan.ops import _engine
from fastgan.proof import AUTOCAST, interleaved

CONTENDERS = {"torch.nn": torch.nn, "fastgan.layers": fastgan.layers, "all fused": fastgan.layers}


def strided(ns: Any) -> Module:
    """A discriminator for digits, with dropout between activation and batch-norm, as tutorials have it."""
    layers: list[Module] = []
    for taken, made in ((1, 16), (16, 32), (32, 64), (64, 128)):
        layers += [ns.Conv2d(taken, made, 3, 2, 1), ns.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.25)]
        layers += [ns.BatchNorm2d(made)] * (taken > 1)
    return ns.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 2 * 2, 1))


class Residual(Module):
    def __init__(self, ns: Any, maps: int) -> None:
        super().__init__()
        one, two = ([ns.Conv2d(maps, maps, 3, 1, 1, bias=False), ns.BatchNorm2d(maps)] for _ in range(2))
        self.layers = ns.Sequential(*one, ns.ReLU(inplace=True), *two)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def residual(ns: Any) -> Module:
    """A translator of images: two steps down, six residual blocks, two up."""
    layers: list[Module] = [ns.Conv2d(3, 16, 7, 1, 3, bias=False), ns.BatchNorm2d(16), ns.ReLU(inplace=True)]
    for maps in (16, 32):
        layers += [ns.Conv2d(maps, 2 * maps, 3, 2, 1, bias=False), ns.BatchNorm2d(2 * maps), ns.ReLU(inplace=True)]
    layers += [Residual(ns, 64) for _ in range(6)]
    for maps in (64, 32):
        up = ns.ConvTranspose2d(maps, maps // 2, 3, 2, 1, output_padding=1, bias=False)
        layers += [up, ns.BatchNorm2d(maps // 2), ns.ReLU(inplace=True)]
    return ns.Sequential(*layers, ns.Conv2d(16, 3, 7, 1, 3), nn.Tanh())


NETWORKS: dict[str, tuple[Callable[[Any], Module], tuple[int, ...]]] = {
    "3x3 discriminator, 8 digits": (strided, (8, 1, 32, 32)),
    "3x3 discriminator, 64 digits": (strided, (64, 1, 32, 32)),
    "residual translator, an image of 64x64": (residual, (1, 3, 64, 64)),
    "residual translator, an image of 128x128": (residual, (1, 3, 128, 128)),
    "DCGAN's generator, width 8, 4 images": (lambda ns: tutorial.networks(ns, 8)[0], (4, 100, 1, 1)),
    "DCGAN's discriminator, width 8, 4 images": (lambda ns: tutorial.networks(ns, 8)[1], (4, 3, 64, 64)),
    "DCGAN's generator, width 32, 4 images": (lambda ns: tutorial.networks(ns, 32)[0], (4, 100, 1, 1)),
    "DCGAN's discriminator, width 32, 4 images": (lambda ns: tutorial.networks(ns, 32)[1], (4, 3, 64, 64)),
}


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each precision and network: milliseconds of a training step, Adam's with it, of each contender."""
    rows = []
    for precision, autocast in AUTOCAST.items():
        for name, (make, shape) in NETWORKS.items():
            steps = {contender: _step(contender, make, shape, autocast) for contender in CONTENDERS}
            seconds = interleaved(steps, rounds)
            rows.append({"precision": precision, "network": name, "ms": {k: 1e3 * v for k, v in seconds.items()}})
    return rows


def _step(
    contender: str, make: Callable[[Any], Module], shape: tuple[int, ...], autocast: torch.dtype | None
) -> Callable[[], None]:
    torch.manual_seed(0)
    network, input = make(CONTENDERS[contender]), torch.randn(shape)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    least = 0 if contender == "all fused" else _engine.LEAST_SAVED

    def step() -> None:
        before, _engine.LEAST_SAVED = _engine.LEAST_SAVED, least
        try:
            optimizer.zero_grad()
            with torch.autocast("cpu", autocast) if autocast is not None else nullcontext():
                output = network(input)
            output.float().square().mean().backward()
            optimizer.step()
        finally:
            _engine.LEAST_SAVED = before

    return step
