"""Training: one exact alternating update, and a trainer around it.

step = training.AdversarialStep(generator, discriminator, opt_g, opt_d)
metrics = step(real)                                             # loss_d, loss_g, d_real, d_fake_before, d_fake_after

training.Trainer(training.TrainConfig(data="photos", image_size=64, steps=2000)).train()
training.Trainer.resume("runs/00000-photos-dcgan-64x64", steps=4000).train()
"""

from fastgan.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from fastgan.training.config import TrainConfig
from fastgan.training.ema import EMA
from fastgan.training.presets import PRESETS
from fastgan.training.step import AdversarialStep
from fastgan.training.trainer import Trainer, TrainResult

__all__ = [
    "EMA",
    "PRESETS",
    "AdversarialStep",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "Trainer",
    "load_checkpoint",
    "save_checkpoint",
]
