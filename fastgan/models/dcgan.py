"""DCGAN (Radford, Metz, Chintala, 2016, https://arxiv.org/abs/1511.06434), for any size from 16 to 256."""

from __future__ import annotations

import torch
from torch import Tensor

import fastgan.layers as nn

from ._shapes import Stage, check_channels, check_image_size, plan_stages

__all__ = ["DCGANDiscriminator", "DCGANGenerator"]

MOST_CHANNELS = 8  # feature maps at most, in multiples of ``width``; the paper's 64x64 network reaches just these


class DCGANGenerator(nn.Module):
    """Latent vectors to images, by transposed convolutions with batch-norm and ReLU, and tanh at the end.

    Called with float [N, latent_dim] or [N, latent_dim, 1, 1], it returns [N, channels, H, W] in [-1, 1].
    At 64x64 it is the paper's network: 1x1 -> 4x4 -> 8x8 -> 16x16 -> 32x32 -> 64x64.

    Args:
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        latent_dim: length of a latent vector.
        width: feature maps before the last layer; each layer before has twice as many, to 8 times.

    Raises:
        UserError: for another size or number of channels.
    """

    family = "dcgan"

    def __init__(
        self, image_size: int | tuple[int, int] = 64, channels: int = 3, latent_dim: int = 100, width: int = 64
    ) -> None:
        super().__init__()
        self.image_size, self.channels = check_image_size(image_size), check_channels(channels)
        self.latent_dim, self.width = latent_dim, width
        stages = plan_stages(self.image_size)[::-1]
        maps = _feature_maps(width, len(stages))[::-1]
        layers = [
            nn.ConvTranspose2d(latent_dim, maps[0], stages[0].small, bias=False),
            nn.BatchNorm2d(maps[0]),
            nn.ReLU(True),
        ]
        for stage, in_maps, out_maps in zip(stages, maps, maps[1:], strict=False):
            layers += [_up(stage, in_maps, out_maps), nn.BatchNorm2d(out_maps), nn.ReLU(True)]
        layers += [_up(stages[-1], maps[-1], self.channels), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, latent: Tensor) -> Tensor:
        return self.main(latent.flatten(1)[:, :, None, None])


class DCGANDiscriminator(nn.Module):
    """Images to logits, by strided convolutions with LeakyReLU(0.2), and batch-norm on all but the first and last.

    Called with float [N, channels, H, W] in [-1, 1], it returns [N] logits; D(x), the probability of real, is their
    sigmoid.

    Args:
        image_size, channels: as the generator's.
        width: feature maps of the first layer; each following one has twice as many, to 8 times.

    Raises:
        UserError: for a size or number of channels that the generator does not take either.
    """

    family = "dcgan"
    per_sample = True  # its forward treats every image by itself, as its children do

    def __init__(self, image_size: int | tuple[int, int] = 64, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        stages = plan_stages(self.image_size)
        maps = _feature_maps(width, len(stages))
        layers = [_down(stages[0], self.channels, maps[0]), nn.LeakyReLU(0.2, True)]
        for stage, in_maps, out_maps in zip(stages[1:], maps, maps[1:], strict=False):
            layers += [_down(stage, in_maps, out_maps), nn.BatchNorm2d(out_maps), nn.LeakyReLU(0.2, True)]
        layers += [nn.Conv2d(maps[-1], 1, stages[-1].small, bias=False)]
        self.main = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images).flatten()


def _feature_maps(width: int, stages: int) -> list[int]:
    """Feature maps after each stage, from the image down."""
    return [width * min(2**stage, MOST_CHANNELS) for stage in range(stages)]


def _down(stage: Stage, in_maps: int, out_maps: int) -> nn.Conv2d:
    return nn.Conv2d(in_maps, out_maps, stage.kernel_size, stage.stride, stage.padding, bias=False)


def _up(stage: Stage, in_maps: int, out_maps: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_maps, out_maps, stage.kernel_size, stage.stride, stage.padding, stage.output_padding, bias=False
    )


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """The paper's start: weights of convolutions from N(0, 0.02), of batch-norm from N(1, 0.02), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
