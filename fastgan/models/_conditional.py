"""What tells a network the class of each sample: conditional batch-norm, and the discriminator's projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan import ops
from fastgan.errors import UserError
from fastgan.layers import _gate
from fastgan.layers._chain import run_modules
from fastgan.ops.activation import Activation

__all__ = ["ConditionalBatchNorm", "Projection", "check_labels", "run_with_labels"]


class ConditionalBatchNorm(nn.Module):
    """Batch-norm whose scale and shift are those of each sample's class, and the activation behind it.

    [N, C, ...] and labels int64 [N] -> [N, C, ...]. Source: Dumoulin, Shlens and Kudlur, "A Learned Representation for
    Artistic Style", 2017; de Vries et al., "Modulating early visual processing by language", 2017.
    """

    def __init__(self, num_features: int, num_classes: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.activation, self.momentum, self.eps = activation, 0.1, 1e-5
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, input: Tensor, labels: Tensor) -> Tensor:
        function = ops.batch_norm_act if _gate.is_open(input) else ops.batch_norm_act_reference
        return function(
            input,
            self.running_mean,
            self.running_var,
            F.embedding(labels, self.weight),
            F.embedding(labels, self.bias),
            self.training,
            self.momentum,
            self.eps,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        """Its sizes."""
        classes, features = self.weight.shape
        return f"{features}, num_classes={classes}, activation={self.activation}"


class Projection(nn.Module):
    """How well features go with a class, to be added to a logit: the inner product with the class's own vector.

    Features [N, C, ...], summed over their pixels, and labels int64 [N] -> [N]. Source: Miyato and Koyama, "cGANs with
    Projection Discriminator", 2018.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_features)
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        pooled = features.flatten(2).sum(2) if features.dim() > 2 else features
        return (pooled * self.embedding(labels)).sum(1)


def run_with_labels(modules: nn.Sequential, input: Tensor, labels: Tensor) -> Tensor:
    """Calls modules one after another, chains among them fused; conditional batch-norms are told the labels."""
    before: list[nn.Module] = []
    for module in modules:
        if isinstance(module, ConditionalBatchNorm):
            input = module(run_modules(input, before), labels)
            before = []
        else:
            before.append(module)
    return run_modules(input, before)


def check_labels(network: nn.Module, labels: Tensor | None, batch: int) -> None:
    """Raises UserError where labels do not go with the network: given or not, and one whole number a sample."""
    name, classes = type(network).__name__, network.num_classes
    if classes == 0:
        if labels is not None:
            raise UserError(f"labels are given, but {name} knows no classes; leave them out, or build it with num_classes.")
        return
    fits = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (batch,)
    if not fits:
        given = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else repr(labels)
        raise UserError(f"labels must be int64 [{batch}] with classes 0 to {classes - 1}, but they are {given}; give {name} such.")
