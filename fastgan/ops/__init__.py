"""Functional forms of the fused operators, each with ``<name>_reference`` in plain torch beside it."""

from fastgan import _native
from fastgan.ops import _flops
from fastgan.ops.batch_norm_act import batch_norm_act, batch_norm_act_reference
from fastgan.ops.bce import (
    AdversarialBCE,
    adversarial_bce,
    adversarial_bce_reference,
    bce,
    bce_reference,
    bce_with_logits,
    bce_with_logits_reference,
)
from fastgan.ops.conv_bn_act import conv_bn_act, conv_bn_act_reference
from fastgan.ops.conv_transpose_bn_act import conv_transpose_bn_act, conv_transpose_bn_act_reference

__all__ = [
    "AdversarialBCE",
    "adversarial_bce",
    "adversarial_bce_reference",
    "batch_norm_act",
    "batch_norm_act_reference",
    "bce",
    "bce_reference",
    "bce_with_logits",
    "bce_with_logits_reference",
    "conv_bn_act",
    "conv_bn_act_reference",
    "conv_transpose_bn_act",
    "conv_transpose_bn_act_reference",
]

if _native.loaded("cpu"):
    _flops.register()
