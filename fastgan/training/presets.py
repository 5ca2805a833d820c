"""The values that apply where a configuration leaves them open, by the data that is trained on."""

from __future__ import annotations

from typing import Any

__all__ = ["DEFAULTS", "PRESETS", "values_for"]

# Radford, Metz, Chintala, 2016, but for the averaged generator.
DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "steps": 20_000,
    "batch_size": 64,
    "lr": 2e-4,
    "beta1": 0.5,
    "latent_dim": 100,
    "width": 64,
    "ema_decay": 0.999,
}

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 32, "epochs": 20, "width": 32, "lr": 5e-4, "ema_decay": 0.99},
}


def values_for(data: str) -> dict[str, Any]:
    """All values for a data set: its preset's where it has one, otherwise the defaults. The length is steps or epochs."""
    preset = PRESETS.get(data, {})
    defaults = {name: value for name, value in DEFAULTS.items() if not (name == "steps" and "epochs" in preset)}
    return {**defaults, **preset}
