"""Which modules form a block, and a block's options and tensors as :mod:`fastgan.ops.run` takes them.

Nothing is remembered between calls: modules are replaced, hooked and retyped by their owners, and a look costs little.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from fastgan.layers import _gate, _modules
from fastgan.ops.activation import NUMBERS
from fastgan.ops.conv_bn_act import pair
from fastgan.ops.run import Block, Conv, Norm, Parameters

_CONVOLUTIONS = {torch.nn.Conv2d, torch.nn.ConvTranspose2d, _modules.Conv2d, _modules.ConvTranspose2d}
_NORMS = {torch.nn.BatchNorm2d, _modules.BatchNorm2d}
_ACTIVATIONS = {
    torch.nn.ReLU: "relu",
    _modules.ReLU: "relu",
    torch.nn.LeakyReLU: "leaky_relu",
    _modules.LeakyReLU: "leaky_relu",
    torch.nn.Tanh: "tanh",
    torch.nn.Sigmoid: "sigmoid",
}


class Members(NamedTuple):
    """The modules of one block; at least ``conv`` or ``bn`` is there."""

    conv: Module | None
    bn: Module | None
    activation: Module | None


def is_convolution(module: Module) -> bool:
    """Whether a block can begin with this module. The exact type: a subclass may compute something else."""
    return (
        type(module) in _CONVOLUTIONS
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not _gate.has_hooks(module)
        and _gate.is_plain(module.weight)
    )


def is_batch_norm(module: Module) -> bool:
    """Whether this module can be a block's batch-norm."""
    return type(module) in _NORMS and not _gate.has_hooks(module)


def is_activation(module: Module) -> bool:
    """Whether this module can be a block's activation."""
    return type(module) in _ACTIVATIONS and not _gate.has_hooks(module) and getattr(module, "negative_slope", 0.0) >= 0


def block_of(members: Members) -> tuple[Block, Parameters]:
    """The block's options and tensors at this moment. Counts the batch, as a batch-norm's forward does."""
    conv, bn, activation = members
    number, slope = 0, 0.0
    if activation is not None:
        number = NUMBERS[_ACTIVATIONS[type(activation)]]
        slope = getattr(activation, "negative_slope", 0.0)
    weight = bias = None
    if conv is not None:
        weight, bias = conv.weight, conv.bias
    norm = None if bn is None else norm_of(bn)
    statistics = (None, None) if bn is None else running_statistics(bn)
    parameters = Parameters(weight, bias, *((None, None) if bn is None else (bn.weight, bn.bias)), *statistics)
    return Block(None if conv is None else conv_of(conv), norm, number, slope), parameters


def conv_of(conv: Module) -> Conv:
    """The options of a convolution module."""
    return Conv(
        conv.stride,
        pair("padding", conv.padding),
        conv.dilation,
        conv.groups,
        conv.transposed,
        conv.output_padding,
    )


def norm_of(bn: Module) -> Norm:
    """The options of a batch-norm module; in training it counts the batch and finds the momentum, as torch's does."""
    momentum = bn.momentum if bn.momentum is not None else 0.0
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:  # cumulative average
            momentum = 1.0 / float(bn.num_batches_tracked)
    training = bn.training or (bn.running_mean is None and bn.running_var is None)
    return Norm(training, momentum, bn.eps)


def running_statistics(bn: Module) -> tuple[Tensor | None, Tensor | None]:
    """The buffers that a forward uses or updates: none in training without tracking."""
    if bn.training and not bn.track_running_stats:
        return None, None
    return bn.running_mean, bn.running_var
