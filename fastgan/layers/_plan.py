"""Which modules form a block, and a block's options and tensors as :mod:`fastgan.ops.run` takes them.

Nothing of it is remembered between calls: modules are replaced, hooked and retyped by their owners.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, NamedTuple

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
Role = Literal["convolution", "norm", "activation"]  # in a block


class _Kind(NamedTuple):
    role: Role
    forward: Callable  # what its instances run, as long as nobody replaces it in the class
    convolve: Callable | None  # the same of a convolution's _conv_forward


_ROLES: dict[Role, Collection[type]] = {"convolution": CONVOLUTIONS, "norm": NORMS, "activation": ACTIVATIONS}
_KINDS = {
    kind: _Kind(role, kind.forward, getattr(kind, "_conv_forward", None))
    for role, kinds in _ROLES.items()
    for kind in kinds
}
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

    def first(self) -> Module:
        """The one that is called first."""
        return self.bn if self.conv is None else self.conv

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


def role_of(module: Module | FunctionalActivation) -> Role | None:
    """As what a block can have this module; None where it cannot have it at all."""
    type_ = type(module)
    if type_ is FunctionalActivation:
        return None if module.negative_slope < 0 else "activation"
    kind = _KINDS.get(type_)
    if kind is None:
        # The exact type, since a subclass may compute something else, as it was before the module was parametrized.
        if not isinstance(module, Module) or "parametrizations" not in module._modules:
            return None
        type_ = type_before_parametrizations(module)
        kind = _KINDS.get(type_)
        if kind is None:
            return None
    role, forward, convolve = kind
    if type_.forward is not forward or (convolve is not None and type_._conv_forward is not convolve):
        return None
    if _gate.is_observed(module):
        return None
    if role != "convolution" and module._forward_pre_hooks:  # a convolution's are run (take_in)
        return None
    return None if role == "activation" and _is_turned(module, type_) else role


def family_of(module: Module | FunctionalActivation) -> Role | None:
    """The role of a type that the module's is, or is derived from."""
    return next((role for role, kinds in _ROLES.items() if isinstance(module, tuple(kinds))), None)


def why_not(module: Module) -> str | None:
    """None where a block can have the module."""
    if role_of(module) is not None:
        return None
    if getattr(module, "negative_slope", 0.0) < 0:
        return "its negative slope is below zero"
    if type(module) in _KINDS or type_before_parametrizations(module) in _KINDS:
        return "it has a hook or a replaced forward, which must run"
    return f"{type(module).__name__} is not one of the modules that can be fused"


def _is_turned(activation: Module, kind: type) -> bool:
    return ACTIVATIONS[kind] == "leaky_relu" and activation.negative_slope < 0


def is_hooked(module: Module) -> bool:
    """Whether calling it does more, for now, than its forward and the making of its weight."""
    return _gate.is_observed(module) or bool(_input_hooks(module))


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
    weight = bias = options = norm = None
    if conv is not None:
        for hook in conv._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(conv, ())
        tensors = conv._parameters
        weight, bias = _read(tensors, "weight", conv), _read(tensors, "bias", conv)
        options = conv_of(conv)
    parameters = Parameters(weight, bias)
    if bn is not None:
        norm = norm_of(bn, batches)
        tensors = bn._parameters
        scale, shift = _read(tensors, "weight", bn), _read(tensors, "bias", bn)
        parameters = Parameters(weight, bias, scale, shift, *running_of(bn, batches))
    return Block(options, norm, *activation_of(activation)), parameters


def outline_of(members: Members, input: Tensor) -> tuple[Block, Parameters]:
    """The block as far as sizes go, on such an input: nothing is computed, counted or hooked."""
    conv, bn, activation = members
    options, norm, weight = None, None, None
    if conv is not None:
        options = conv_of(conv)
        if _pads_by_itself(conv):  # which is as large, or differs by one pixel
            by_zeros = conv.padding_mode == "zeros"
            left, _, top, _ = _same_padding(conv) if by_zeros else conv._reversed_padding_repeated_twice
            options = options._replace(padding=(top, left))
        weight = conv._parameters.get("weight")
        if weight is None:  # one that is made of others
            outer, inner = conv.out_channels, conv.in_channels
            channels = (inner, outer // conv.groups) if conv.transposed else (outer, inner // conv.groups)
            weight = input.new_empty(*channels, *conv.kernel_size)
    if bn is not None:
        norm = Norm(bn.training, 0.0, bn.eps)
    return Block(options, norm, *activation_of(activation)), Parameters(weight)


def _read(tensors: Mapping[str, Tensor | None], name: str, module: Module) -> Tensor | None:
    """An attribute from among a module's parameters or buffers, where getattr() finds it last."""
    return tensors[name] if name in tensors else getattr(module, name)


def activation_of(activation: Module | FunctionalActivation | None) -> tuple[int, float, bool]:
    """The number, the negative slope, and whether it writes over its input."""
    if activation is None:
        return 0, 0.0, False
    if type(activation) is FunctionalActivation:
        return NUMBERS[activation.name], activation.negative_slope, activation.inplace
    name = ACTIVATIONS.get(type(activation)) or ACTIVATIONS[type_before_parametrizations(activation)]
    # Asking a module for an attribute that it lacks costs an exception.
    slope = activation.negative_slope if name == "leaky_relu" else 0.0
    return NUMBERS[name], slope, name in ("relu", "leaky_relu") and activation.inplace


def conv_of(conv: Module) -> Conv:
    """The options of a convolution module; the padding that :func:`take_in` does is left out."""
    padding = conv.padding
    # Their owners may have set one number in the place of two.
    stride, dilation, output_padding = (
        pair("stride", conv.stride),
        pair("dilation", conv.dilation),
        pair("output_padding", conv.output_padding),
    )
    if _pads_by_itself(conv) or padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        left, _, top, _ = _same_padding(conv)
        padding = (top, left)
    else:
        padding = pair("padding", padding)
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
    if bn.training and not bn.track_running_stats:
        return None, None, None
    buffers = bn._buffers
    mean, var = _read(buffers, "running_mean", bn), _read(buffers, "running_var", bn)
    if not bn.training:
        return mean, var, None
    counter = _read(buffers, "num_batches_tracked", bn) if bn.momentum is not None else None
    if counter is not None and counter.dtype != torch.int64:  # such as an average of several models'
        counter.add_(batches)
        counter = None
    return mean, var, counter


def _is_counting(bn: Module) -> bool:
    return bn.training and bn.track_running_stats
