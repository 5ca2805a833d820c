"""Which modules form a block, and a block's options and tensors as :mod:`fastgan.ops.run` takes them.

Nothing is remembered between calls: modules are replaced, hooked and retyped by their owners, and a look costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fastgan.layers import _gate, _modules
from fastgan.ops.activation import NUMBERS
from fastgan.ops.blocks import Block, Conv, Norm, Parameters
from fastgan.ops.conv_bn_act import pair

CONVOLUTIONS = {torch.nn.Conv2d, torch.nn.ConvTranspose2d, _modules.Conv2d, _modules.ConvTranspose2d}
NORMS = {torch.nn.BatchNorm2d, _modules.BatchNorm2d}
ACTIVATIONS = {
    torch.nn.ReLU: "relu",
    _modules.ReLU: "relu",
    torch.nn.LeakyReLU: "leaky_relu",
    _modules.LeakyReLU: "leaky_relu",
    torch.nn.Tanh: "tanh",
    torch.nn.Sigmoid: "sigmoid",
}
_KNOWN = {*CONVOLUTIONS, *NORMS, *ACTIVATIONS}
# What they run, as long as nobody replaces it in the class.
_RUN = {kind: (kind.forward, getattr(kind, "_conv_forward", None)) for kind in _KNOWN}
WEIGHT_HOOKS = (SpectralNorm, WeightNorm)  # pre-hooks that make the weight and do not look at the input


class FunctionalActivation(NamedTuple):
    """An activation that a forward calls as a function, such as ``F.leaky_relu(x, 0.2)``."""

    name: str
    negative_slope: float = 0.0
    inplace: bool = False

    def __call__(self, input: Tensor) -> Tensor:
        if self.name == "leaky_relu":
            return F.leaky_relu(input, self.negative_slope, self.inplace)
        return getattr(torch, self.name + ("_" if self.inplace else ""))(input)


class Members(NamedTuple):
    """The modules of one block; at least ``conv`` or ``bn`` is there."""

    conv: Module | None
    bn: Module | None
    activation: Module | FunctionalActivation | None

    def modules(self) -> Iterator[Module]:
        """Those that are modules."""
        return (member for member in self if isinstance(member, Module))

    def run_unfused(self, input: Tensor) -> Tensor:
        """What the modules one after another compute."""
        for member in self:
            input = input if member is None else member(input)
        return input

    def run_by_torch(self, input: Tensor) -> Tensor:
        """The same, a batch-norm by torch's own forward: fastgan's would come back here."""
        if self.conv is not None:
            input = self.conv(input)
        if self.bn is not None:
            input = torch.nn.BatchNorm2d.forward(self.bn, input)
        return input if self.activation is None else self.activation(input)


# ---- what fits where ------------------------------------------------------------------------------------------------


def is_convolution(module: Module | FunctionalActivation) -> bool:
    """Whether a block can begin with this module."""
    kind = _type_of(module)
    return kind in CONVOLUTIONS and _is_original(kind) and not _gate.is_observed(module)


def is_batch_norm(module: Module | FunctionalActivation) -> bool:
    """Whether this module can be a block's batch-norm."""
    kind = _type_of(module)
    return kind in NORMS and _is_original(kind) and not _gate.has_hooks(module)


def is_activation(module: Module | FunctionalActivation) -> bool:
    """Whether this can be a block's activation."""
    if type(module) is FunctionalActivation:
        return module.negative_slope >= 0
    kind = _type_of(module)
    return kind in ACTIVATIONS and _is_original(kind) and not _is_turned(module) and not _gate.has_hooks(module)


def why_not(fits: Callable[[Module | FunctionalActivation], bool], module: Module | FunctionalActivation) -> str | None:
    """None where ``fits``, one of the three above, holds of a module of one of their kinds."""
    if fits(module):
        return None
    if _is_turned(module):
        return "its negative slope is below zero"
    if _type_of(module) in _KNOWN:
        return "it has a hook or a replaced forward, which must run"
    return f"{type(module).__name__} is not one of the modules that can be fused"


def _is_original(kind: type) -> bool:
    forward, convolve = _RUN[kind]
    return kind.forward is forward and (convolve is None or kind._conv_forward is convolve)


def _is_turned(activation: Module | FunctionalActivation) -> bool:
    return getattr(activation, "negative_slope", 0.0) < 0


def _type_of(module: Module | FunctionalActivation) -> type:
    """The exact type, since a subclass may compute something else, as it was before the module was parametrized."""
    kind = type(module)
    if kind not in _KNOWN and isinstance(module, Module) and "parametrizations" in module._modules:
        return type_before_parametrizations(module)
    return kind


# ---- the head of a chain --------------------------------------------------------------------------------------------


def needs_input(conv: Module | None) -> bool:
    """Whether a convolution has to see its input itself, so that a chain must begin at it."""
    if conv is None:
        return False
    return _pads_by_itself(conv) or bool(_input_hooks(conv))


def take_in(conv: Module, input: Tensor) -> Tensor:
    """What a chain's first convolution does to its input before it convolves: pre-hooks that read it, and padding."""
    for hook in _input_hooks(conv):
        found = hook(conv, (input,))
        if found is not None:
            (input,) = found if isinstance(found, tuple) else (found,)
    if conv.padding_mode != "zeros":
        return F.pad(input, conv._reversed_padding_repeated_twice, conv.padding_mode)
    return F.pad(input, _same_padding(conv)) if _pads_by_itself(conv) else input


def _pads_by_itself(conv: Module) -> bool:
    if conv.padding_mode != "zeros":
        return True
    if conv.padding != "same":
        return False
    left, right, top, bottom = _same_padding(conv)
    return left != right or top != bottom


def _same_padding(conv: Module) -> tuple[int, int, int, int]:
    """left, right, top and bottom of padding="same", by the kernel and the dilation as they are now."""
    weight = conv._parameters.get("weight")
    kernel = conv.kernel_size if weight is None else weight.shape[2:]
    totals = [d * (k - 1) for d, k in zip(pair("dilation", conv.dilation), kernel, strict=True)]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return left, right, top, bottom


def _input_hooks(conv: Module) -> list:
    if not conv._forward_pre_hooks:
        return []
    return [hook for hook in conv._forward_pre_hooks.values() if not isinstance(hook, WEIGHT_HOOKS)]


# ---- options and tensors --------------------------------------------------------------------------------------------


def block_of(members: Members, batches: int = 1) -> tuple[Block, Parameters]:
    """The block's options and tensors at this moment: each parameter is read once, since reading may compute it.

    Runs the hooks that make a weight, and counts the batches, as the modules' own forwards do.
    """
    conv, bn, activation = members
    number, slope, inplace = activation_of(activation)
    weight = bias = None
    if conv is not None:
        for hook in conv._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(conv, ())
        weight, bias = conv.weight, conv.bias
    norm, parameters = None, Parameters(weight, bias)
    if bn is not None:
        norm = norm_of(bn, batches)
        parameters = Parameters(weight, bias, bn.weight, bn.bias, *running_of(bn, batches))
    return Block(None if conv is None else conv_of(conv), norm, number, slope, inplace), parameters


def activation_of(activation: Module | FunctionalActivation | None) -> tuple[int, float, bool]:
    """The number, the negative slope, and whether it writes over its input."""
    match activation:
        case None:
            return 0, 0.0, False
        case FunctionalActivation(name, slope, inplace):
            return NUMBERS[name], slope, inplace
    name = ACTIVATIONS[type(activation)]
    return NUMBERS[name], getattr(activation, "negative_slope", 0.0), getattr(activation, "inplace", False)


def conv_of(conv: Module) -> Conv:
    """The options of a convolution module; the padding that :func:`take_in` does is left out."""
    if _pads_by_itself(conv):
        padding = (0, 0)
    elif conv.padding == "same":
        left, _, top, _ = _same_padding(conv)
        padding = (top, left)
    else:
        padding = (0, 0) if conv.padding == "valid" else pair("padding", conv.padding)
    # Their owners may have set one number in the place of two.
    stride, dilation, output_padding = (
        pair(name, getattr(conv, name)) for name in ("stride", "dilation", "output_padding")
    )
    if conv.padding == "same" and stride != (1, 1):
        raise RuntimeError("padding='same' is not supported for strided convolutions")  # torch's words
    return Conv(stride, padding, dilation, conv.groups, conv.transposed, output_padding)


def norm_of(bn: Module, batches: int = 1) -> Norm:
    """The options of a batch-norm module; it counts the batches where its momentum follows from their number."""
    momentum = bn.momentum
    if momentum is None:  # cumulative average
        counts = _is_counting(bn) and bn.num_batches_tracked is not None
        momentum = 1.0 / float(bn.num_batches_tracked.add_(batches)) if counts else 0.0
    training = bn.training or (bn.running_mean is None and bn.running_var is None)
    return Norm(training, momentum, bn.eps)


def running_of(bn: Module, batches: int = 1) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The buffers that a forward uses or updates: none in training without tracking."""
    if not _is_counting(bn):
        return (None, None, None) if bn.training else (bn.running_mean, bn.running_var, None)
    counter = bn.num_batches_tracked if bn.momentum is not None else None
    if counter is not None and counter.dtype != torch.int64:  # such as an average of several models'
        counter.add_(batches)
        counter = None
    return bn.running_mean, bn.running_var, counter


def _is_counting(bn: Module) -> bool:
    return bn.training and bn.track_running_stats
