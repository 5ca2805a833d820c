"""Each block of the DCGAN tutorial's networks by itself, forward and backward, against eager torch.

``benchmarks/report.py`` runs this. A block's backward computes every gradient, also those of the first layers' inputs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from cases import Case
from harness import Bench, check_error, gflop

from fastgan import _native, tutorial
from fastgan.proof import EXACT_BATCH, interleaved

# As users train: float32 as torch lays images out, bfloat16 in the format that it is fast in.
SETTINGS = {
    "float32": (torch.float32, torch.contiguous_format),
    "bfloat16": (torch.bfloat16, torch.channels_last),
}


def blocks(batch_size: int, width: int = 64) -> list[Case]:
    """The blocks of :func:`fastgan.tutorial.networks` from the generator's first to the discriminator's last."""
    generator, discriminator = tutorial.networks(torch.nn, width)
    latent = (batch_size, tutorial.LATENT_DIM, 1, 1)
    images = (batch_size, tutorial.CHANNELS, tutorial.IMAGE_SIZE, tutorial.IMAGE_SIZE)
    return [*_blocks_of("G", generator, latent), *_blocks_of("D", discriminator, images)]


def _blocks_of(network: str, layers: torch.nn.Sequential, shape: tuple[int, ...]) -> list[Case]:
    starts = [i for i, layer in enumerate(layers) if hasattr(layer, "stride")]
    cases = []
    for number, (start, end) in enumerate(pairwise([*starts, len(layers)]), 1):
        conv, *norm, activation = layers[start:end]
        shapes = {"weight": tuple(conv.weight.shape)}
        options = {"stride": conv.stride, "padding": conv.padding, "batch_norm": bool(norm)}
        options |= {"activation": _ACTIVATIONS[type(activation)]}
        options |= {"negative_slope": getattr(activation, "negative_slope", 0.0)}
        if norm:
            shapes |= {"bn_weight": (conv.out_channels,), "bn_bias": (conv.out_channels,)}
        op = "conv_transpose_bn_act" if conv.transposed else "conv_bn_act"
        name = f"{network}{number}"
        cases.append(Case(name, op, shape, shapes, options, conv.out_channels if norm else 0))
        shape = _output_shape(conv, shape)
    return cases


_ACTIVATIONS = {
    torch.nn.ReLU: "relu",
    torch.nn.LeakyReLU: "leaky_relu",
    torch.nn.Tanh: "tanh",
    torch.nn.Sigmoid: "sigmoid",
}


def _output_shape(conv: torch.nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(conv.to("meta")(torch.empty(shape)).shape)


def needed_gflop(case: Case) -> float:
    """Of the convolution's three passes."""
    one = replace(case, input=(1, *case.input[1:]))
    return case.input[0] * gflop(Bench(one, torch.float32).call(case.reference, "forward_backward"))


def measure(batch_size: int, width: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each precision and block: milliseconds of eager and fastgan, taking turns, and needed GFLOP."""
    rows = []
    for precision, (dtype, format) in SETTINGS.items():
        for case in blocks(batch_size, width):
            small = replace(case, input=(min(batch_size, EXACT_BATCH), *case.input[1:]))
            errors = check_error(Bench(small, dtype, format))
            bench = Bench(case, dtype, format)
            calls = {
                "torch.nn": bench.call(case.reference, "forward_backward"),
                "fastgan.layers": bench.call(case.function, "forward_backward"),
            }
            _native.reset_counters()
            calls["fastgan.layers"]()
            kernels = _native.counters()
            seconds = interleaved(calls, rounds)
            rows.append(
                {
                    "precision": precision,
                    "layer": case.name,
                    "op": case.op,
                    "input": list(case.input),
                    "weight": list(case.tensors["weight"]),
                    "error": max(errors.values()),
                    "kernels": kernels,
                    "gflop": needed_gflop(case),
                    "ms": {name: 1e3 * value for name, value in seconds.items()},
                }
            )
    return rows
