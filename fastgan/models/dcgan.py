"""DCGAN (Radford, Metz, Chintala, 2016, https://arxiv.org/abs/1511.06434), for any size from 16 to 256."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import fastgan.layers as nn

from ._conditional import ConditionalBatchNorm, Discriminator, check_labels, norm_relu, run_with_labels
from ._shapes import Stage, check_channels, check_choice, check_classes, check_image_size, plan_stages

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "down", "feature_maps", "initialise", "up"]

MOST_CHANNELS = 8  # feature maps at most, in multiples of ``width``; the paper's 64x64 network reaches just these
HEADS = ("conv", "linear")


class DCGANGenerator(nn.Module):
    """Latent vectors to images, by transposed convolutions with batch-norm and ReLU, and tanh at the end.

    Called with float [N, latent_dim] or [N, latent_dim, 1, 1], and int64 labels [N] where it has classes, it returns
    [N, channels, H, W] in [-1, 1]. At 64x64 it is the paper's network: 1x1 -> 4x4 -> 8x8 -> 16x16 -> 32x32 -> 64x64.

    Args:
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        latent_dim: length of a latent vector.
        width: feature maps before the last layer; each layer before has twice as many, to 8 times.
        head: the layer at the latent's end: a transposed convolution ("conv") or a fully connected one ("linear").
        num_classes: 0, or the number of classes: then each batch-norm has a scale and a shift for each.

    Raises:
        UserError: for another size, number of channels, head or number of classes.
    """

    family = "dcgan"
    arguments = ("image_size", "channels", "latent_dim", "width", "head", "num_classes")

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        latent_dim: int = 100,
        width: int = 64,
        head: str = "conv",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.channels = check_image_size(image_size), check_channels(channels)
        self.latent_dim, self.width = latent_dim, width
        self.head, self.num_classes = check_choice("head", head, HEADS), check_classes(num_classes)
        stages = plan_stages(self.image_size)[::-1]
        maps = feature_maps(width, len(stages))[::-1]
        layers = [*self._head(maps[0], stages[0].small), *norm_relu(nn.BatchNorm2d, maps[0], num_classes)]
        for stage, in_maps, out_maps in zip(stages, maps, maps[1:], strict=False):
            layers += [up(stage, in_maps, out_maps), *norm_relu(nn.BatchNorm2d, out_maps, num_classes)]
        layers += [up(stages[-1], maps[-1], self.channels), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.apply(initialise)

    def _head(self, maps: int, size: tuple[int, int]) -> list[nn.Module]:
        if self.head == "conv":
            return [nn.ConvTranspose2d(self.latent_dim, maps, size, bias=False)]
        return [
            nn.Flatten(),
            nn.Linear(self.latent_dim, maps * math.prod(size), bias=False),
            nn.Unflatten(1, (maps, *size)),
        ]

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        check_labels(self, labels, latent.shape[0])
        return run_with_labels(self.main, latent.flatten(1)[:, :, None, None], labels)


class DCGANDiscriminator(Discriminator):
    """Images to logits, by strided convolutions with LeakyReLU(0.2), and batch-norm on all but the first and last.

    Called with float [N, channels, H, W] in [-1, 1], and int64 labels [N] where it has classes, it returns [N] logits;
    D(x), the probability of real, is their sigmoid.

    Args:
        image_size, channels: as the generator's.
        width: feature maps of the first layer; each following one has twice as many, to 8 times.
        head: the last layer: a convolution over all that is left ("conv") or a fully connected one ("linear").
        num_classes: 0, or the number of classes: then a projection of the last features is added to the logit.

    Raises:
        UserError: for what the generator does not take either.
    """

    family = "dcgan"
    arguments = ("image_size", "channels", "width", "head", "num_classes")

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        width: int = 64,
        head: str = "conv",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        self.head, self.num_classes = check_choice("head", head, HEADS), check_classes(num_classes)
        stages = plan_stages(self.image_size)
        maps = feature_maps(width, len(stages))
        layers = [down(stages[0], self.channels, maps[0]), nn.LeakyReLU(0.2, True)]
        for stage, in_maps, out_maps in zip(stages[1:], maps, maps[1:], strict=False):
            layers += [down(stage, in_maps, out_maps), nn.BatchNorm2d(out_maps), nn.LeakyReLU(0.2, True)]
        size = stages[-1].small
        if self.head == "conv":
            layers += [nn.Conv2d(maps[-1], 1, size, bias=False)]
        else:
            layers += [nn.Sequential(nn.Flatten(), nn.Linear(maps[-1] * math.prod(size), 1))]
        self._judge_by(layers, features=maps[-1])
        self.apply(initialise)


def feature_maps(width: int, stages: int) -> list[int]:
    """Feature maps after each stage, from the image down."""
    return [width * min(2**stage, MOST_CHANNELS) for stage in range(stages)]


def down(stage: Stage, in_maps: int, out_maps: int) -> nn.Conv2d:
    """The convolution of a stage."""
    return nn.Conv2d(in_maps, out_maps, stage.kernel_size, stage.stride, stage.padding, bias=False)


def up(stage: Stage, in_maps: int, out_maps: int) -> nn.ConvTranspose2d:
    """The transposed convolution of a stage."""
    return nn.ConvTranspose2d(
        in_maps, out_maps, stage.kernel_size, stage.stride, stage.padding, stage.output_padding, bias=False
    )


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """The paper's start: weights of convolutions and full connections from N(0, 0.02), of batch-norm from N(1, 0.02),
    biases 0.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, ConditionalBatchNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
