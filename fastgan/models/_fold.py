"""Batch-norm as part of the layer before it, for networks that are only applied."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ._conditional import ConditionalAffine, ConditionalBatchNorm

__all__ = ["folded"]

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A copy of a family's network, in eval mode, without batch-norm: its weights are in the layers before.

    The copy gives the same to rounding, in fewer passes over memory, and cannot be trained on.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return network


def _fold(sequential: nn.Sequential) -> None:
    layer = None
    for name, module in list(sequential.named_children()):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            scale = module.weight * (module.running_var + module.eps).rsqrt()
            _scale(layer, scale, module.bias - module.running_mean * scale)
            del sequential._modules[name]
        elif isinstance(module, ConditionalBatchNorm):
            scale = module.weight * (module.running_var + module.eps).rsqrt()
            shift = module.bias - module.running_mean * scale
            sequential._modules[name] = ConditionalAffine(scale, shift, module.activation).requires_grad_(False)
        elif isinstance(module, _LAYERS):
            layer = module


def _scale(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """Scales and shifts the outputs of a layer; a fully connected one may have several in a row for each channel."""
    out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    times = layer.weight.shape[out] // len(scale)
    scale, shift = scale.repeat_interleave(times), shift.repeat_interleave(times)
    layer.weight.mul_(scale.unflatten(0, (-1, *(1 for _ in layer.weight.shape[out + 1 :]))))
    bias = shift if layer.bias is None else torch.addcmul(shift, layer.bias, scale)
    layer.bias = nn.Parameter(bias, requires_grad=False)
