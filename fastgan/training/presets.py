"""The values that apply where a configuration leaves them open."""

from __future__ import annotations

from typing import Any

__all__ = ["DATA_SETS", "PRESETS", "preset_of"]

DATA_SETS = ("digits", "emoji")  # those that come with fastgan, each with a preset of its name

PRESETS: dict[str, dict[str, Any]] = {
    # Legible digits in about a minute on two CPU cores. The generator learns faster than the discriminator, and a short
    # latent vector is learnt sooner; tests/training/test_digits_quality.py holds these values to their figures.
    "digits": {
        "data": "digits",
        "image_size": 32,
        "epochs": 8,
        "batch_size": 32,
        "lr_g": 2e-3,
        "lr_d": 5e-4,
        "latent_dim": 32,
        "width": 32,
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
        "sample_every": 200,
        "checkpoint_every": 1000,
    },
    # In the manner of the digits at twice their size: small networks, which a CPU takes through the pictures often.
    # Mirroring and R1 keep the discriminator from learning these few pictures by heart.
    "emoji": {
        "data": "emoji",
        "image_size": 64,
        "mirror": True,
        "epochs": 100,
        "batch_size": 32,
        "lr_g": 1e-3,
        "lr_d": 2.5e-4,
        "latent_dim": 64,
        "width": 32,
        "label_smoothing": 0.1,
        "r1_gamma": 0.1,
        "ema_decay": 0.999,
        "sample_every": 500,
        "checkpoint_every": 1000,
    },
    # A first look at any folder: 32 pixels, a few minutes on two cores.
    "cpu-quick": {
        "image_size": 32,
        "steps": 2000,
        "batch_size": 32,
        "lr_g": 1e-3,
        "lr_d": 2.5e-4,
        "latent_dim": 32,
        "width": 32,
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
        "sample_every": 200,
        "checkpoint_every": 500,
    },
    # Radford, Metz, Chintala, 2016, but for the averaged generator.
    "images": {
        "image_size": 64,
        "steps": 10_000,
        "batch_size": 64,
        "lr_g": 2e-4,
        "lr_d": 2e-4,
        "latent_dim": 100,
        "width": 64,
        "label_smoothing": 0.0,
        "ema_decay": 0.999,
        "sample_every": 500,
        "checkpoint_every": 1000,
    },
}


def preset_of(data: str | None) -> str:
    """The preset for a data set: the one of its name, "digits" where nothing is said, otherwise "images"."""
    return data if data in DATA_SETS else "digits" if data is None else "images"
