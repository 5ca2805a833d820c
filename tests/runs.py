"""Files of trained generators, without the training."""

from __future__ import annotations

from pathlib import Path

import torch

from fastgan import models
from fastgan.training.checkpoint import write_tensors

CLASSES = 3
# What models.build takes for every kind of generator, small, and each at an odd size.
KINDS = {
    "dcgan": {"family": "dcgan", "image_size": 28, "channels": 1},
    "dcgan_linear": {"family": "dcgan", "image_size": (48, 64), "channels": 3, "head": "linear"},
    "dcgan_conditional": {"family": "dcgan", "image_size": (48, 64), "channels": 3, "num_classes": CLASSES},
    "mlp": {"family": "mlp", "image_size": 28, "channels": 1},
    "mlp_conditional": {"family": "mlp", "image_size": (20, 17), "channels": 4, "num_classes": CLASSES},
    "lenet": {"family": "lenet", "image_size": 28, "channels": 1},
    "encoder_decoder": {"family": "encoder_decoder", "image_size": (28, 36), "channels": 3, "in_channels": 1},
    "encoder_decoder_plain": {"family": "encoder_decoder", "image_size": 28, "channels": 4, "skips": False},
}


def arguments_for(network: torch.nn.Module, n: int) -> tuple[torch.Tensor, ...]:
    """What a generator is called with."""
    if hasattr(network, "in_channels"):
        return (torch.rand(n, network.in_channels, *network.image_size) * 2 - 1,)
    labels = (torch.arange(n) % network.num_classes,) if network.num_classes else ()
    return torch.randn(n, network.latent_dim), *labels


def build(kind: str, seed: int = 0) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Networks as after a training: images are various, and batch-norm has seen some."""
    torch.manual_seed(seed)
    generator, discriminator = models.build(**KINDS[kind], latent_dim=6, width=4)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, 0.05, 0.2)
    for _ in range(8):
        generator(*arguments_for(generator, 16))
    return generator.eval(), discriminator.eval()


def write_run(folder: Path, kind: str) -> Path:
    """The generator.safetensors of a run."""
    generator, _ = build(kind)
    folder.mkdir(parents=True)
    described = {
        "kind": "generator",
        "generator": models.arguments_of(generator),
        "discriminator": None,
        "class": type(generator).__name__,
        "from_logits": True,
        "latent_shape": (generator.latent_dim,) if hasattr(generator, "latent_dim") else None,
        "image_size": generator.image_size,
        "channels": generator.channels,
        "data": "noise",
        "step": 7,
    }
    write_tensors(folder / "generator.safetensors", generator.state_dict(), described)
    return folder
