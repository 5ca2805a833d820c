"""Sample inputs of every operator: one set for correctness, gradients, opcheck and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgan import ops

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Largest error against the float64 truth, as norm(a - b) / max(norm(b), 1). float32 sums a few thousand terms of
# relative error 6e-8; 16-bit dtypes have torch's own eager error as their bar, because rounding the output alone
# exceeds any fixed one.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# Ill-conditioned values (a bias before a batch-norm: a sum of terms that cancel to 0) have eager's error as theirs too.
EAGER_FACTOR = {torch.float64: 2.0, torch.float32: 2.0, torch.bfloat16: 1.2, torch.float16: 1.2}


@dataclass(frozen=True)
class Case:
    """One call of an operator: which tensors it takes, by shape, and its options."""

    name: str
    op: str
    input: tuple[int, ...]
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)  # name: shape; differentiable ones
    options: dict[str, Any] = field(default_factory=dict)
    buffers: int = 0  # channels of the running statistics; 0: none

    @property
    def function(self) -> Callable:
        return getattr(ops, self.op)

    @property
    def reference(self) -> Callable:
        return getattr(ops, f"{self.op}_reference")

    def sample(
        self, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format, seed: int = 0
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The input, the differentiable tensors, and the buffers. Batch-norm weights include 0 and 1e-3."""
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        # Batch-norm's own tensors stay float32 beside 16-bit data, as under autocast.
        wide = torch.promote_types(dtype, torch.float32)
        input = draw(self.input).mul_(1.5).add_(0.5).to(dtype)
        if len(self.input) == 4:
            input = input.contiguous(memory_format=memory_format)
        tensors = {}
        for name, shape in self.tensors.items():
            value = draw(shape)
            if name in ("weight", "bn_weight") and len(shape) < 3:
                value[..., 0] = 0.0
                value[..., 1 % shape[-1]] = 1e-3
            if name == "weight" and len(shape) == 4:
                value = (value * 0.1).contiguous(memory_format=memory_format)
            norm = name.startswith("bn_") or self.op == "batch_norm_act"
            tensors[name] = value.to(wide if norm else dtype)
        buffers = {}
        if self.buffers:
            buffers["running_mean"] = draw((self.buffers,)).to(wide)
            buffers["running_var"] = draw((self.buffers,)).square().add(0.5).to(wide)
        return input, tensors, buffers


def _norm(
    name: str, shape: tuple[int, ...], affine: bool = True, buffers: bool = True, per_sample: bool = False, **options
) -> Case:
    channels = shape[1]
    of_each = shape[:2] if per_sample else (channels,)
    tensors = {"weight": of_each, "bias": of_each} if affine else {}
    options = {"training": True, "activation": "leaky_relu", "negative_slope": 0.2, **options}
    return Case(name, "batch_norm_act", shape, tensors, options, channels if buffers else 0)


def _conv(name: str, shape, weight, *, transposed=False, bias=False, batch_norm=True, **options) -> Case:
    channels = weight[1] * options.get("groups", 1) if transposed else weight[0]
    tensors = {"weight": weight} | ({"bias": (channels,)} if bias else {})
    if batch_norm:
        tensors |= {"bn_weight": (channels,), "bn_bias": (channels,)}
    op = "conv_transpose_bn_act" if transposed else "conv_bn_act"
    options = {"batch_norm": batch_norm, "activation": "leaky_relu", "negative_slope": 0.2, **options}
    return Case(name, op, shape, tensors, options, channels if batch_norm else 0)


BATCH_NORM_ACT = [
    _norm("leaky_relu", (4, 16, 6, 6)),
    _norm("relu", (3, 32, 5, 7), activation="relu"),
    _norm("none", (4, 64, 4, 4), activation="none"),
    _norm("tanh", (2, 8, 3, 3), activation="tanh"),
    _norm("sigmoid", (2, 8, 3, 3), activation="sigmoid"),
    _norm("three_channels", (5, 3, 9, 7)),
    _norm("odd_channels", (3, 17, 5, 5)),
    _norm("wide", (2, 200, 3, 3)),
    _norm("one_channel", (3, 1, 4, 5)),
    _norm("batch_of_one", (1, 12, 4, 4)),
    _norm("one_pixel", (7, 20, 1, 1)),
    _norm("rows_and_tail", (1, 24, 67, 61)),
    _norm("flat", (9, 33)),
    _norm("sequence", (4, 10, 13)),
    _norm("groups", (6, 16, 4, 3), batch_groups=3),
    _norm("no_affine", (4, 16, 4, 4), affine=False),
    _norm("no_buffers", (4, 16, 4, 4), buffers=False),
    _norm("momentum", (4, 16, 4, 4), momentum=0.37, eps=1e-3),
    _norm("eval", (4, 16, 5, 5), training=False),
    _norm("eval_groups", (4, 16, 5, 5), training=False, batch_groups=2),
    _norm("per_sample", (4, 16, 6, 6), per_sample=True, activation="relu"),
    _norm("per_sample_planes", (3, 5, 17, 19), per_sample=True),
    _norm("per_sample_groups", (6, 16, 4, 3), per_sample=True, batch_groups=2),
    _norm("per_sample_flat", (9, 33), per_sample=True),
    _norm("per_sample_eval", (4, 16, 5, 5), per_sample=True, training=False),
]

CONV_BN_ACT = [
    _conv("stride_2", (3, 8, 8, 8), (16, 8, 4, 4), stride=2, padding=1),
    _conv("bias", (2, 5, 7, 9), (6, 5, 3, 3), bias=True, activation="relu"),
    _conv("no_norm", (2, 3, 8, 8), (8, 3, 4, 4), stride=2, padding=1, batch_norm=False),
    _conv("no_norm_tanh", (2, 3, 6, 6), (4, 3, 3, 3), bias=True, batch_norm=False, activation="tanh"),
    _conv("no_norm_sigmoid", (2, 3, 4, 4), (1, 3, 4, 4), batch_norm=False, activation="sigmoid"),
    _conv("to_one_pixel", (3, 6, 4, 4), (5, 6, 4, 4), bias=True, batch_norm=False, activation="none"),
    _conv("plain", (2, 3, 6, 6), (4, 3, 3, 3), bias=True, batch_norm=False, activation="none"),
    _conv("groups_dilation", (2, 8, 9, 9), (12, 4, 3, 3), groups=2, dilation=2, padding=(2, 1)),
    _conv("same", (2, 4, 6, 7), (5, 4, 4, 3), padding="same"),
    _conv("reflect", (2, 3, 6, 7), (5, 3, 3, 3), stride=2, padding=(1, 2), padding_mode="reflect"),
    _conv("circular", (2, 3, 6, 7), (5, 3, 4, 3), padding="same", padding_mode="circular", activation="relu"),
    _conv("one_by_one", (4, 6, 5, 5), (9, 6, 1, 1), activation="sigmoid"),
    _conv("eval", (3, 8, 8, 8), (16, 8, 4, 4), stride=2, padding=1, training=False),
    _conv("batch_groups", (4, 3, 8, 8), (8, 3, 4, 4), stride=2, padding=1, batch_groups=2),
]

CONV_TRANSPOSE_BN_ACT = [
    _conv("stride_2", (3, 16, 4, 4), (16, 8, 4, 4), transposed=True, stride=2, padding=1, activation="relu"),
    _conv("from_latent", (4, 10, 1, 1), (10, 16, 4, 4), transposed=True, activation="relu"),
    _conv("from_latent_bias", (4, 10, 1, 1), (10, 6, 4, 4), transposed=True, bias=True, batch_norm=False),
    _conv("output_padding", (2, 6, 5, 3), (6, 4, 4, 4), transposed=True, stride=2, padding=1, output_padding=(1, 0)),
    _conv("groups", (2, 6, 5, 5), (6, 4, 3, 3), transposed=True, groups=2, dilation=2, bias=True),
    _conv(
        "tanh",
        (2, 8, 4, 4),
        (8, 3, 4, 4),
        transposed=True,
        stride=2,
        padding=1,
        batch_norm=False,
        bias=True,
        activation="tanh",
    ),
    _conv("eval", (3, 16, 4, 4), (16, 8, 4, 4), transposed=True, stride=2, padding=1, training=False),
]

CASES = BATCH_NORM_ACT + CONV_BN_ACT + CONV_TRANSPOSE_BN_ACT


def relative_error(value: Tensor, truth: Tensor) -> float:
    """norm(value - truth) / max(norm(truth), 1)"""
    value, truth = value.detach().to(torch.float64), truth.detach().to(torch.float64)
    return float((value - truth).norm() / truth.norm().clamp_min(1.0))


def evaluate(
    function: Callable, case: Case, dtype: torch.dtype, memory_format: torch.memory_format, seed: int, as_dtype=None
) -> dict[str, Tensor]:
    """Output, gradients and buffers of one call on a case's sample; ``as_dtype`` computes in another dtype."""
    input, tensors, buffers = case.sample(dtype, memory_format, seed)
    if as_dtype is not None:
        input = input.to(as_dtype)
        tensors, buffers = ({k: v.to(as_dtype) for k, v in d.items()} for d in (tensors, buffers))
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}
    leaves = {"input": input, **tensors}
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    arguments = {**leaves, **({"running_mean": None, "running_var": None} if case.op == "batch_norm_act" else {})}
    output = function(**{**arguments, **buffers}, **case.options)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)
    grads = torch.autograd.grad(output, list(leaves.values()), grad.to(output.dtype))
    named = {f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}
    return {"output": output.detach(), **named, **buffers}
