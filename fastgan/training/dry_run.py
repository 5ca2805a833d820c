"""What a training run would be, without beginning it."""

from __future__ import annotations

import resource
import time

import torch

from fastgan.training.progress import clock
from fastgan.training.trainer import Trainer

__all__ = ["dry_run"]

STEPS, SECONDS = 5, 10.0


def dry_run(trainer: Trainer) -> str:
    """The resolved configuration, the size of the networks, the memory and the time of a step, for people to read.

    Up to five steps on random images are measured after one to warm up, ten seconds of them at most. Nothing is
    written, and the trainer's networks are no longer what they were.
    """
    config, state = trainer.config, trainer.state
    images = (trainer.stream.batch_size or config.batch_size) * config.d_steps
    shape = (images, trainer.stream.channels, *trainer.stream.image_size)
    real = torch.rand(shape, device=trainer.device).mul_(2).sub_(1).contiguous(memory_format=torch.channels_last)
    for module in (state.generator, state.discriminator):
        module.train()
    times = []
    while not times or (len(times) <= STEPS and sum(times) < SECONDS):
        began = time.perf_counter()
        metrics = trainer.step(real)
        state.ema.update(state.generator)
        float(metrics["loss_g"])  # waits for the device
        times.append(time.perf_counter() - began)
    step = min(times[1:] or times)
    return (
        f"{config.to_toml()}\n{trainer.describe()}\n"
        f"memory    {_peak(trainer.device)}\n"
        f"time      {step * 1e3:,.1f} ms a step, {len(real) / step:,.0f} images/s, "
        f"{clock(step * trainer.total_steps)} in all\n"
        "nothing was written"
    )


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU at the peak of these steps"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of this process at the peak"
