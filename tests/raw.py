"""The native operators under the public ones, for tests and benchmarks of single passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.ops.blocks import LEAVES, Block, Parameters, numbers_of
from fastgan.ops.run import kept_of


class RawRun:
    """The operators of a run called without autograd, which shows single gradients.

    Args:
        x: the run's input.
        blocks, parameters, batch_groups: as ``fastgan.ops.run.run`` takes them.
        allow_tf32: of the operators.
    """

    def __init__(
        self,
        x: Tensor,
        blocks: Sequence[Block],
        parameters: Sequence[Parameters],
        batch_groups: int = 1,
        allow_tf32: bool = False,
    ) -> None:
        self.x, self.allow_tf32 = x, allow_tf32
        self.given = [tensor for p in parameters for tensor in p[:LEAVES]]
        running = [tensor for p in parameters for tensor in p[LEAVES:]]
        numbers = numbers_of(blocks, keeps=True)
        results = torch.ops.fastgan._run(x, self.given, running, *numbers, batch_groups, True, allow_tf32)
        self.output, self.kept = results[-1], kept_of(x, blocks, results)
        self.numbers = numbers_of(blocks, keeps=False)

    def gradients(self, grad: Tensor, *wanted: int) -> list[Tensor]:
        """Those of 0, the input, and of 1 + LEAVES * i + j, parameter j of block i."""
        needs = [place in wanted for place in range(1 + len(self.given))]
        backward = torch.ops.fastgan._run_backward
        return backward(grad, self.x, self.given, self.kept, *self.numbers, needs, self.allow_tf32)
