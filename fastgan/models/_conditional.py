"""What networks that may have classes share: conditional batch-norm, and the discriminator with its projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan.layers as nn
from fastgan import ops
from fastgan.errors import UserError
from fastgan.layers import _gate
from fastgan.layers._chain import run_modules
from fastgan.ops import activation as activations
from fastgan.ops.activation import Activation

__all__ = [
    "ConditionalAffine",
    "ConditionalBatchNorm",
    "Discriminator",
    "Projection",
    "check_labels",
    "norm_relu",
    "run_with_labels",
]


class ConditionalAffine(nn.Module):
    """A scale and a shift of each sample's class, and the activation behind them.

    [N, C, ...] and labels int64 [N] -> [N, C, ...].
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)  # [num_classes, C]
        self.activation = activation

    def forward(self, input: Tensor, labels: Tensor) -> Tensor:
        scale, shift = (
            F.embedding(labels, table).reshape(*input.shape[:2], *(1 for _ in input.shape[2:]))
            for table in (self.weight, self.bias)
        )
        return activations.apply(torch.addcmul(shift, input, scale), activations.number_of(self.activation), 0.0)

    def extra_repr(self) -> str:
        """Its sizes."""
        classes, features = self.weight.shape
        return f"{features}, num_classes={classes}, activation={self.activation}"


class ConditionalBatchNorm(ConditionalAffine):
    """Batch-norm whose scale and shift are those of each sample's class, and the activation behind it.

    [N, C, ...] and labels int64 [N] -> [N, C, ...]. Source: Dumoulin, Shlens and Kudlur, "A Learned Representation for
    Artistic Style", 2017; de Vries et al., "Modulating early visual processing by language", 2017.
    """

    def __init__(self, num_features: int, num_classes: int, activation: Activation = "relu") -> None:
        super().__init__(torch.ones(num_classes, num_features), torch.zeros(num_classes, num_features), activation)
        self.momentum, self.eps = 0.1, 1e-5
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


class Projection(nn.Module):
    """How well features go with a class, to be added to a logit: the inner product with the class's own vector.

    Features [N, C, ...], summed over their pixels, and labels int64 [N] -> [N]. Source: Miyato and Koyama, "cGANs with
    Projection Discriminator", 2018.
    """

    per_sample = True  # its forward treats every sample by itself

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).normal_(0.0, 0.02))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        pooled = features.flatten(2).sum(2) if features.dim() > 2 else features
        return (pooled * F.embedding(labels, self.weight)).sum(1)


class Discriminator(nn.Module):
    """Images [N, C, H, W], and int64 labels [N] where ``num_classes`` is not 0, to logits [N].

    ``main`` gives the logit: its last layer judges the features that the others find, and a projection of these is
    added where there are classes.
    """

    per_sample = True  # its forward treats every image by itself, as its children do
    num_classes: int

    def _judge_by(self, layers: Sequence[nn.Module], features: int) -> None:
        self.main = nn.Sequential(*layers)
        self.projection = Projection(features, self.num_classes) if self.num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        check_labels(self, labels, images.shape[0])
        if labels is None:
            return self.main(images).flatten()
        features = self.main[:-1](images)
        return self.main[-1](features).flatten() + self.projection(features, labels)


def norm_relu(norm: type[nn.Module], features: int, num_classes: int) -> list[nn.Module]:
    """Batch-norm, of the type ``norm`` or conditional where there are classes, and a ReLU."""
    if num_classes:
        return [ConditionalBatchNorm(features, num_classes)]
    return [norm(features), nn.ReLU(True)]


def run_with_labels(modules: nn.Sequential, input: Tensor, labels: Tensor | None) -> Tensor:
    """Calls modules one after another, chains among them fused; conditional ones are told the labels."""
    if labels is None:
        return modules(input)
    before: list[nn.Module] = []
    for module in modules:
        if isinstance(module, ConditionalAffine):
            input = module(run_modules(input, before), labels)
            before = []
        else:
            before.append(module)
    return run_modules(input, before)


def check_labels(network: nn.Module, labels: Tensor | None, batch: int) -> None:
    """Raises UserError where labels do not go with the network: given or not, and one whole number a sample.

    ``batch`` has to be a ``shape[0]`` and not a ``len()``, which torch.export would take for a constant.
    """
    name, classes = type(network).__name__, network.num_classes
    if classes == 0:
        if labels is not None:
            raise UserError(
                f"labels are given, but {name} knows no classes; leave them out, or build it with num_classes."
            )
        return
    fits = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (batch,)
    if not fits:
        given = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else repr(labels)
        raise UserError(
            f"labels must be int64 [{batch}] with classes 0 to {classes - 1}, but they are {given}; give {name} such."
        )
