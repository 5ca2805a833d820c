"""A discriminator in the manner of LeNet: convolution, activation and pooling in turns, then full connections.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; for any size from 16 to 256.
"""

from __future__ import annotations

import math

import fastgan.layers as nn

from ._conditional import Discriminator
from ._shapes import check_channels, check_choice, check_classes, check_image_size, plan_stages
from .dcgan import feature_maps

__all__ = ["LeNetDiscriminator"]

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class LeNetDiscriminator(Discriminator):
    """Images to logits, by 5x5 convolutions with LeakyReLU(0.2), 2x2 pooling, and two full connections.

    Called with float [N, channels, H, W] in [-1, 1], and int64 labels [N] where it has classes, it returns [N] logits;
    D(x), the probability of real, is their sigmoid.

    Args:
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        width: a fourth of it is the feature maps of the first layer, as few as LeNet's; each following one has twice as
            many, to 8 times.
        pooling: "max" or "average".
        num_classes: 0, or the number of classes: then a projection of the last features is added to the logit.

    Raises:
        UserError: for another size, number of channels, pooling or number of classes.
    """

    family = "lenet"
    arguments = ("image_size", "channels", "width", "pooling", "num_classes")

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        width: int = 64,
        pooling: str = "max",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        self.pooling, self.num_classes = check_choice("pooling", pooling, tuple(POOLINGS)), check_classes(num_classes)
        stages = plan_stages(self.image_size)
        maps = feature_maps(max(1, width // 4), len(stages))
        layers: list[nn.Module] = []
        for stage, in_maps, out_maps in zip(stages, [self.channels, *maps], maps, strict=False):
            layers += [nn.Conv2d(in_maps, out_maps, 5, padding=2), nn.LeakyReLU(0.2, True)]
            layers += [POOLINGS[pooling](stage.stride)]  # 2 where the stage halves the dimension, otherwise 1
        layers += [nn.Flatten(), nn.Linear(maps[-1] * math.prod(stages[-1].small), 2 * width), nn.LeakyReLU(0.2, True)]
        self._judge_by([*layers, nn.Linear(2 * width, 1)], features=2 * width)
