"""Training: one alternating step, and the trainer that repeats it.

step = training.AdversarialStep(generator, discriminator, opt_g, opt_d)
results = step(real)                                   # {"loss_d": ..., "loss_g": ..., "d_real": ..., ...}

training.Trainer(training.TrainConfig(data="photos", image_size=64)).train()
"""

from .checkpoint import load_checkpoint, save_checkpoint
from .config import PRESETS, TrainConfig
from .ema import EMA
from .run_folder import RunFolder, newest_run
from .step import AdversarialStep
from .trainer import Trainer

__all__ = [
    "EMA",
    "PRESETS",
    "AdversarialStep",
    "RunFolder",
    "TrainConfig",
    "Trainer",
    "load_checkpoint",
    "newest_run",
    "save_checkpoint",
]
