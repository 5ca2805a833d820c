"""FLOPs of the fused convolutions, for :class:`torch.utils.flop_counter.FlopCounterMode`: what torch's own count for.

Like torch's formulas, these count the convolutions alone, not batch-norm, activation and bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import flop_counter


def register() -> None:
    """Register the formulas with torch."""
    ops = torch.ops.fastgan
    for op, backward, transposed in (
        (ops._conv_bn_act, ops._conv_bn_act_backward, False),
        (ops._conv_transpose_bn_act, ops._conv_transpose_bn_act_backward, True),
    ):
        flop_counter.register_flop_formula(op, get_raw=True)(_forward_formula(op, transposed))
        flop_counter.register_flop_formula(backward, get_raw=True)(_backward_formula(backward, transposed))


def _forward_formula(op, transposed: bool) -> Callable[..., int]:
    def flops(*args, out_val, **kwargs) -> int:
        given = _by_name(op, args, kwargs)
        formula = flop_counter.flop_registry[torch.ops.aten.convolution]
        return formula(given["input"], given["weight"], None, *_options(given, transposed), out_val=out_val[0])

    return flops


def _backward_formula(op, transposed: bool) -> Callable[..., int]:
    def flops(*args, out_val, **kwargs) -> int:
        given = _by_name(op, args, kwargs)
        formula = flop_counter.flop_registry[torch.ops.aten.convolution_backward]
        mask = [bool(given["output_mask"] & bit) for bit in (1, 2, 4)]
        tensors = given["grad_output"], given["input"], given["weight"]
        return formula(*tensors, None, *_options(given, transposed), mask, out_val=out_val[:3])

    return flops


def _by_name(op, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    names = (argument.name for argument in op.default._schema.arguments)
    return dict(zip(names, args, strict=False)) | kwargs


def _options(given: dict[str, Any], transposed: bool) -> tuple:
    """In the order in which ``aten::convolution`` and ``aten::convolution_backward`` take them."""
    output_padding = given.get("output_padding", [0, 0])
    return given["stride"], given["padding"], given["dilation"], transposed, output_padding, given["groups"]
