"""The networks and the training loop of PyTorch's DCGAN tutorial, written once for any ``torch.nn`` namespace.

They are what users compare fastgan with, so the command ``fastgan bench``, the benchmarks and the tests train them as
they stand: ``Loop(torch.nn)`` is the tutorial, ``Loop(fastgan.layers)`` the tutorial with one import line changed. The
loop's own improvements are left to :class:`fastgan.training.AdversarialStep`.

https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["IMAGE_SIZE", "LATENT_DIM", "Loop", "inputs", "networks", "optimizer"]

IMAGE_SIZE = 64
CHANNELS = 3
LATENT_DIM = 100


def networks(nn: Any, width: int = 64) -> tuple[Module, Module]:
    """The generator, [N, 100, 1, 1] -> [N, 3, 64, 64], and the discriminator, images -> probabilities [N, 1, 1, 1].

    Args:
        nn: ``torch.nn`` or ``fastgan.layers``; the same seed gives the same weights.
        width: feature maps of the layers next to the image.
    """
    layers: list[Module] = []
    maps = (LATENT_DIM, 8 * width, 4 * width, 2 * width, width)
    for i, (taken, made) in enumerate(pairwise(maps)):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(taken, made, 4, stride, padding, bias=False), nn.BatchNorm2d(made), nn.ReLU(True)]
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(width, CHANNELS, 4, 2, 1, bias=False), nn.Tanh())

    layers = [nn.Conv2d(CHANNELS, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    maps = (width, 2 * width, 4 * width, 8 * width)
    for taken, made in pairwise(maps):
        layers += [nn.Conv2d(taken, made, 4, 2, 1, bias=False), nn.BatchNorm2d(made), nn.LeakyReLU(0.2, inplace=True)]
    discriminator = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid())

    generator.apply(_weights_init)
    discriminator.apply(_weights_init)
    return generator, discriminator


def _weights_init(module: Module) -> None:
    name = type(module).__name__
    if "Conv" in name:
        torch.nn.init.normal_(module.weight, 0.0, 0.02)
    elif "BatchNorm" in name:
        torch.nn.init.normal_(module.weight, 1.0, 0.02)
        torch.nn.init.zeros_(module.bias)


def optimizer(network: Module, fused: bool | None = None) -> torch.optim.Adam:
    """The tutorial's; ``fused`` as :class:`torch.optim.Adam` takes it."""
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=fused)


def inputs(batch_size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch that stands for real images, uniform in [-1, 1], and latents; in float64, to be cast from one draw."""
    draw = torch.Generator().manual_seed(seed)
    real = torch.rand(batch_size, CHANNELS, IMAGE_SIZE, IMAGE_SIZE, generator=draw, dtype=torch.float64) * 2 - 1
    return real, torch.randn(batch_size, LATENT_DIM, 1, 1, generator=draw, dtype=torch.float64)


class Loop:
    """The two networks with their optimizers; a call is the body of the tutorial's loop.

    Args:
        nn: the namespace of the networks and of ``BCELoss``.
        width: of :func:`networks`.
        seed: of the start weights, which are drawn on the CPU in float32: one seed, one start, whatever follows here.
        device, dtype, memory_format: of the networks.
        autocast: the dtype in which the networks run under autocast; the loss stays outside, in ``dtype``.
    """

    def __init__(
        self,
        nn: Any,
        *,
        width: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        autocast: torch.dtype | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = networks(nn, width)
        place = {"device": device, "dtype": dtype, "memory_format": memory_format}
        self.generator, self.discriminator = (network.to(**place) for network in made)
        self.opt_g, self.opt_d = optimizer(self.generator), optimizer(self.discriminator)
        self.criterion = nn.BCELoss()
        self.dtype, self.autocast = dtype, autocast

    def compile(self, mode: str | None = None) -> None:
        """Has torch.compile take the networks, each by itself; it does its work when they first run.

        Args:
            mode: torch.compile's own, such as ``"max-autotune"``; None is its default.
        """
        # Not Module.compile(): of a plain torch.nn.Sequential it compiles nothing, and says nothing.
        self.generator, self.discriminator = (
            torch.compile(network, dynamic=False, mode=mode) for network in (self.generator, self.discriminator)
        )

    def __call__(self, real: Tensor, latent: Tensor) -> dict[str, float]:
        """One update of each network.

        Args:
            real: [N, 3, 64, 64]. latent: [N, 100, 1, 1]. Both in the networks' dtype.

        Returns:
            What the tutorial prints, under the names that :class:`fastgan.training.AdversarialStep` gives it.
        """
        self.discriminator.zero_grad()
        on_real = self._judge(real)
        loss_real = self.criterion(on_real, torch.ones_like(on_real))
        loss_real.backward()
        d_real = on_real.mean().item()

        fake = self._run(self.generator, latent)
        on_fake = self._judge(fake.detach())
        loss_fake = self.criterion(on_fake, torch.zeros_like(on_fake))
        loss_fake.backward()
        d_fake_before = on_fake.mean().item()
        self.opt_d.step()

        self.generator.zero_grad()
        on_fake = self._judge(fake)
        loss_g = self.criterion(on_fake, torch.ones_like(on_fake))
        loss_g.backward()
        self.opt_g.step()
        return {
            "loss_d": (loss_real + loss_fake).item(),
            "loss_g": loss_g.item(),
            "d_real": d_real,
            "d_fake_before": d_fake_before,
            "d_fake_after": on_fake.mean().item(),
        }

    def _run(self, network: Module, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, self.autocast, enabled=self.autocast is not None):
            return network(input)

    def _judge(self, images: Tensor) -> Tensor:
        return self._run(self.discriminator, images).view(-1).to(self.dtype)
