"""Image to image: a convolutional encoder, a transposed-convolutional decoder, and a discriminator of patches.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (pix2pix), 2017,
https://arxiv.org/abs/1611.07004; for any size from 16 to 256.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastgan.layers as nn

from ._shapes import check_channels, check_image_size, plan_stages
from .dcgan import down, feature_maps, initialise, up

__all__ = ["EncoderDecoder", "PatchDiscriminator"]

PATCH_STAGES = 3  # strided convolutions of the paper's 70x70 patches


class EncoderDecoder(nn.Module):
    """Images to images: strided convolutions take the features out, transposed ones rebuild an image of them.

    Called with float [N, in_channels, H, W] in [-1, 1], it returns [N, channels, H, W] in [-1, 1].

    Args:
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: of the images it makes: 1 (grey), 3 (RGB) or 4 (RGBA).
        width: feature maps of the layers next to the images; each layer further in has twice as many, to 8 times.
        in_channels: of the images it is given, 1, 3 or 4; None: as many.
        skips: whether each layer of the decoder sees what the encoder had found at its size, beside what comes from
            within (the paper's U-Net).

    Raises:
        UserError: for another size or number of channels.
    """

    family = "encoder_decoder"
    takes_images = True  # in the place of latents
    arguments = ("image_size", "channels", "width", "in_channels", "skips")
    num_classes = 0

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        width: int = 64,
        in_channels: int | None = None,
        skips: bool = True,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        self.in_channels = check_channels(channels if in_channels is None else in_channels, "in_channels")
        self.skips = bool(skips)
        stages = plan_stages(self.image_size)
        maps = feature_maps(width, len(stages))
        encoder = [nn.Sequential(down(stages[0], self.in_channels, maps[0]), nn.LeakyReLU(0.2, True))]
        for stage, in_maps, out_maps in zip(stages[1:], maps, maps[1:], strict=False):
            encoder += [
                nn.Sequential(down(stage, in_maps, out_maps), nn.BatchNorm2d(out_maps), nn.LeakyReLU(0.2, True))
            ]
        decoder, seen = [], maps[-1]
        for stage, out_maps in zip(stages[:0:-1], maps[-2::-1], strict=True):
            decoder += [nn.Sequential(up(stage, seen, out_maps), nn.BatchNorm2d(out_maps), nn.ReLU(True))]
            seen = 2 * out_maps if self.skips else out_maps
        decoder += [nn.Sequential(up(stages[0], seen, self.channels), nn.Tanh())]
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.apply(initialise)

    def forward(self, source: Tensor) -> Tensor:
        image, found = source, []
        for layer in self.encoder:
            image = layer(image)
            found.append(image)
        found.pop()  # the innermost is what the decoder begins with
        for layer in self.decoder[:-1]:
            image = layer(image)
            if self.skips:
                image = torch.cat([image, found.pop()], 1)
        return self.decoder[-1](image)


class PatchDiscriminator(nn.Module):
    """Pairs of images to a logit for each patch: whether the second, there, is the real answer to the first.

    Called with float images [N, channels, H, W] and the sources [N, in_channels, H, W] that they were made of, both in
    [-1, 1], it returns logits [N, 1, h, w]; D, the probability of real, is the mean of their sigmoid.

    Args:
        image_size, channels, in_channels: as the generator's.
        width: feature maps of the first layer; each following one has twice as many, to 8 times.

    Raises:
        UserError: for what the generator does not take either.
    """

    family = "encoder_decoder"
    per_sample = True  # its forward treats every image by itself, as its children do
    judges_pairs = True  # it is given the sources with the images
    arguments = ("image_size", "channels", "width", "in_channels")
    num_classes = 0

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        width: int = 64,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        self.in_channels = check_channels(channels if in_channels is None else in_channels, "in_channels")
        stages = plan_stages(self.image_size)[:PATCH_STAGES]
        maps = feature_maps(width, len(stages) + 1)
        layers = [down(stages[0], self.in_channels + self.channels, maps[0]), nn.LeakyReLU(0.2, True)]
        for stage, in_maps, out_maps in zip(stages[1:], maps, maps[1:], strict=False):
            layers += [down(stage, in_maps, out_maps), nn.BatchNorm2d(out_maps), nn.LeakyReLU(0.2, True)]
        layers += [
            nn.Conv2d(maps[-2], maps[-1], 4, 1, 1, bias=False),
            nn.BatchNorm2d(maps[-1]),
            nn.LeakyReLU(0.2, True),
        ]
        self.main = nn.Sequential(*layers, nn.Conv2d(maps[-1], 1, 4, 1, 1))
        self.apply(initialise)

    def forward(self, images: Tensor, source: Tensor) -> Tensor:
        return self.main(torch.cat([source, images], 1))
