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

    Up to five steps on the first images are measured after one to warm up, ten seconds of them at most. Nothing is
    written, and the trainer's networks are no longer what they were.
    """
    config, state = trainer.config, trainer.state
    batch = trainer.task.batch(range(config.d_steps))
    for module in (state.generator, state.discriminator):
        module.train()
    times = []
    while not times or (len(times) <= STEPS and sum(times) < SECONDS):
        began = time.perf_counter()
        metrics = trainer.step(*batch)
        state.ema.update(state.generator)
        float(metrics["loss_g"])  # waits for the device
        times.append(time.perf_counter() - began)
    step = min(times[1:] or times)
    return (
        f"{config.to_toml()}\n{trainer.describe()}\n"
        f"memory    {_peak(trainer.device)}\n"
        f"time      {step * 1e3:,.1f} ms a step, {len(batch.real) / step:,.0f} images/s, "
        f"{clock(step * trainer.total_steps)} in all\n"
        "nothing was written"
    )


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU at the peak of these steps"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of this process at the peak"
