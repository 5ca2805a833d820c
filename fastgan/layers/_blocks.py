"""The fused block as one explicit module."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torch.nn import Module

import fastgan.layers  # whose _chain imports this module
from fastgan.layers import _gate
from fastgan.layers._modules import BatchNorm2d, Conv2d, ConvTranspose2d
from fastgan.layers._plan import Members, role_of
from fastgan.ops.activation import Activation, number_of
from fastgan.ops.conv_bn_act import Size


class FusedBlock(Module):
    """What the two blocks share: children ``conv`` and ``bn``, then the activation.

    ``weight`` and ``bias`` read the convolution's, so that an initialiser which looks for "Conv" in class names, as the
    DCGAN tutorial's does, works on the block as it does on a convolution.
    """

    conv: Module
    bn: Module

    def __init__(self, conv: Module, bn: Module, activation: Activation, negative_slope: float) -> None:
        super().__init__()
        number_of(activation)
        self.conv = conv
        self.bn = bn
        self.activation = activation
        self.negative_slope = negative_slope
        # Not a child: it has no state, and a block's children are those of its equation.
        self.__dict__["_activation"] = _activation_module(activation, negative_slope)

    @property
    def weight(self) -> Tensor:
        """The convolution's weight."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The convolution's bias."""
        return self.conv.bias

    def members(self) -> Members | None:
        """The modules as one block, or None where they cannot be fused."""
        activation = self.__dict__["_activation"]
        fits = role_of(self.conv) == "convolution" and role_of(self.bn) == "norm"
        fits = fits and (activation is None or role_of(activation) == "activation")
        return Members(self.conv, self.bn, activation) if fits else None

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H_out, W_out]."""
        members = self.members()
        return self.run_unfused(input) if members is None else fastgan.layers._chain.run_chain(input, [members])

    def run_unfused(self, input: Tensor) -> Tensor:
        """What the modules one after another compute."""
        return Members(self.conv, self.bn, self.__dict__["_activation"]).run_unfused(input)

    def __prepare_scriptable__(self) -> Module:
        if not _gate.runs_own_forward(self):
            return self
        activation = self.__dict__["_activation"]
        modules = {"conv": self.conv, "bn": self.bn} | ({} if activation is None else {"activation": activation})
        return torch.nn.Sequential(OrderedDict(modules))

    def extra_repr(self) -> str:
        """The activation."""
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"activation={self.activation}{slope}"


class ConvBNAct2d(FusedBlock):
    """``Conv2d -> BatchNorm2d -> activation`` as one module.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: of the
            convolution; ``bias`` is False by default, since batch-norm takes it out again.
        eps, momentum, affine, track_running_stats: of the batch-norm.
        activation: ``none``, ``relu``, ``leaky_relu``, ``tanh`` or ``sigmoid``.
        negative_slope: of ``leaky_relu``; 0.2, the slope of DCGAN's discriminator.

    Shapes: [N, in_channels, H, W] -> [N, out_channels, H_out, W_out].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: Activation = "leaky_relu",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at = {"device": device, "dtype": dtype}
        conv = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **at
        )
        bn = BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, **at)
        super().__init__(conv, bn, activation, negative_slope)


class ConvTransposeBNAct2d(FusedBlock):
    """``ConvTranspose2d -> BatchNorm2d -> activation`` as one module.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode:
            of the transposed convolution; ``bias`` is False by default, since batch-norm takes it out again.
        eps, momentum, affine, track_running_stats: of the batch-norm.
        activation: ``none``, ``relu``, ``leaky_relu``, ``tanh`` or ``sigmoid``; ReLU, as in DCGAN's generator.
        negative_slope: of ``leaky_relu``.

    Shapes: [N, in_channels, H, W] -> [N, out_channels, H_out, W_out].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = False,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: Activation = "relu",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at = {"device": device, "dtype": dtype}
        conv = ConvTranspose2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            **at,
        )
        bn = BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, **at)
        super().__init__(conv, bn, activation, negative_slope)


def _activation_module(name: Activation, negative_slope: float) -> Module | None:
    match name:
        case "relu":
            return torch.nn.ReLU()
        case "leaky_relu":
            return torch.nn.LeakyReLU(negative_slope)
        case "tanh":
            return torch.nn.Tanh()
        case "sigmoid":
            return torch.nn.Sigmoid()
    return None
