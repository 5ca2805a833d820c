"""The first GAN's own shape: input, hidden layers with an activation, output, all fully connected.

Goodfellow et al., "Generative Adversarial Networks", 2014, https://arxiv.org/abs/1406.2661; with the layers that became
usual for its digits: 100 -> 256 -> 512 -> 1024 -> pixels, and pixels -> 512 -> 256 -> 1.
"""

from __future__ import annotations

import math

from torch import Tensor

import fastgan.layers as nn

from ._conditional import Discriminator, check_labels, norm_relu, run_with_labels
from ._shapes import check_channels, check_classes, check_image_size

__all__ = ["MLPDiscriminator", "MLPGenerator"]


class MLPGenerator(nn.Module):
    """Latent vectors to images, by three hidden layers with batch-norm and ReLU, and tanh at the end.

    Called with float [N, latent_dim], and int64 labels [N] where it has classes, it returns [N, channels, H, W] in
    [-1, 1].

    Args:
        image_size: pixels, one number for a square or (height, width), from 16 to 256.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        latent_dim: length of a latent vector.
        width: the hidden layers have 4, 8 and 16 times as many units.
        num_classes: 0, or the number of classes: then each batch-norm has a scale and a shift for each.

    Raises:
        UserError: for another size, number of channels or number of classes.
    """

    family = "mlp"
    arguments = ("image_size", "channels", "latent_dim", "width", "num_classes")

    def __init__(
        self,
        image_size: int | tuple[int, int] = 64,
        channels: int = 3,
        latent_dim: int = 100,
        width: int = 64,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.channels = check_image_size(image_size), check_channels(channels)
        self.latent_dim, self.width, self.num_classes = latent_dim, width, check_classes(num_classes)
        layers, units = [], latent_dim
        for hidden in (4 * width, 8 * width, 16 * width):
            # Without a bias: batch-norm takes it out again. That is torch's own: on so few values a call of the fused
            # operator takes longer than its two passes.
            layers += [nn.Linear(units, hidden, bias=False), *norm_relu(nn.BatchNorm1d, hidden, num_classes)]
            units = hidden
        shape = (self.channels, *self.image_size)
        layers += [nn.Linear(units, math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape)]
        self.main = nn.Sequential(*layers)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        check_labels(self, labels, latent.shape[0])
        return run_with_labels(self.main, latent.flatten(1), labels)


class MLPDiscriminator(Discriminator):
    """Images to logits, by two hidden layers with LeakyReLU(0.2).

    Called with float [N, channels, H, W] in [-1, 1], and int64 labels [N] where it has classes, it returns [N] logits;
    D(x), the probability of real, is their sigmoid.

    Args:
        image_size, channels: as the generator's.
        width: the hidden layers have 8 and 4 times as many units.
        num_classes: 0, or the number of classes: then a projection of the last features is added to the logit.

    Raises:
        UserError: for what the generator does not take either.
    """

    family = "mlp"
    arguments = ("image_size", "channels", "width", "num_classes")

    def __init__(
        self, image_size: int | tuple[int, int] = 64, channels: int = 3, width: int = 64, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.width = check_image_size(image_size), check_channels(channels), width
        self.num_classes = check_classes(num_classes)
        layers = [
            nn.Flatten(),
            nn.Linear(math.prod((self.channels, *self.image_size)), 8 * width),
            nn.LeakyReLU(0.2, True),
            nn.Linear(8 * width, 4 * width),
            nn.LeakyReLU(0.2, True),
            nn.Linear(4 * width, 1),
        ]
        self._judge_by(layers, features=4 * width)
