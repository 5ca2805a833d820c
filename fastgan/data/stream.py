"""Which images the batch of each step holds: a pure function of the step, so that a run resumes exactly."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["BatchStream", "mirror_generator"]

_PERMUTATION, _MIRROR = 0, 1  # spawn keys: the two kinds of randomness never share a stream


class BatchStream:
    """An endless sequence of index batches over ``n`` images.

    Each epoch is one random permutation of all images; the permutations follow each other without a gap, and batch
    after batch is cut from them. So every epoch visits every image exactly once, no batch is ever ragged, and a batch
    may hold the end of one epoch and the start of the next (of several where ``n < batch_size``).

    There is no state: the batch of a step depends on ``n``, ``batch_size``, ``seed`` and the step alone.

    Args:
        n: the number of images, at least 1.
        batch_size: images a batch, at least 1.
        seed: any whole number.
    """

    def __init__(self, n: int, batch_size: int, seed: int = 0) -> None:
        if n < 1:
            raise UserError(f"a stream of batches needs at least 1 image, but there are {n}; give a set with images")
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise UserError(f"batch_size must be at least 1, but it is {batch_size!r}; give a positive whole number")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._cached: tuple[int | None, Tensor] = (None, torch.empty(0, dtype=torch.int64))

    def indices(self, step: int) -> Tensor:
        """int64 [batch_size]: the images of the batch of ``step`` (from 0)."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while first < end:
            epoch, offset = divmod(first, self.n)
            parts.append(self._permutation(epoch)[offset : offset + end - first])
            first += len(parts[-1])
        return torch.cat(parts)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every image has been seen once: n / batch_size, rounded up."""
        return self.steps_for(1)

    def steps_for(self, epochs: float) -> int:
        """Steps that see ``epochs`` times ``n`` images (to the nearest image); the last batch rounds up.

        The rounding is of the whole, not of each epoch: 10 epochs of 5,000 images in batches of 64 are 782 steps, not
        790.
        """
        return -(-round(epochs * self.n) // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of the first image of the batch of ``step``, which is how many epochs are complete."""
        return step * self.batch_size // self.n

    def _permutation(self, epoch: int) -> Tensor:
        cached_epoch, permutation = self._cached
        if cached_epoch != epoch:
            permutation = torch.from_numpy(_random(self.seed, _PERMUTATION, epoch).permutation(self.n))
            self._cached = (epoch, permutation)
        return permutation


def mirror_generator(seed: int, step: int) -> torch.Generator:
    """The generator that decides which images of the batch of ``step`` are mirrored."""
    return torch.Generator().manual_seed(int(_random(seed, _MIRROR, step).integers(2**63)))


def _random(seed: int, purpose: int, counter: int) -> np.random.Generator:
    if counter < 0:
        raise UserError("the step of a batch must be at least 0, but it is negative; count steps from 0")
    # NumPy's seed sequence keeps (seed, counter) pairs independent; torch's generator keeps 32 bits of a seed only.
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=(purpose, counter))
    return np.random.Generator(np.random.PCG64(sequence))
