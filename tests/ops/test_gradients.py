"""First and second derivatives by finite differences, and torch's own checks of every raw operator."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan import ops

SMALL = [
    Case("train", "batch_norm_act", (3, 2, 2, 2), {"weight": (2,), "bias": (2,)}, {"training": True}),
    Case("eval", "batch_norm_act", (3, 2, 2, 2), {"weight": (2,), "bias": (2,)}, {"training": False}, 2),
    Case(
        "groups", "batch_norm_act", (4, 2, 2, 2), {"weight": (2,), "bias": (2,)}, {"training": True, "batch_groups": 2}
    ),
    Case("each", "batch_norm_act", (3, 2, 2, 2), {"weight": (3, 2), "bias": (3, 2)}, {"training": True}),
    Case(
        "norm", "conv_bn_act", (2, 2, 4, 4), {"weight": (3, 2, 2, 2), "bn_weight": (3,), "bn_bias": (3,)}, {"stride": 2}
    ),
    Case(
        "eval",
        "conv_bn_act",
        (2, 1, 3, 3),
        {"weight": (2, 1, 2, 2), "bn_weight": (2,), "bn_bias": (2,)},
        {"training": False},
        2,
    ),
    Case("act", "conv_bn_act", (2, 2, 3, 3), {"weight": (2, 2, 2, 2), "bias": (2,)}, {"batch_norm": False}),
    Case(
        "norm",
        "conv_transpose_bn_act",
        (2, 2, 2, 2),
        {"weight": (2, 2, 4, 4), "bn_weight": (2,), "bn_bias": (2,)},
        {"stride": 2, "padding": 1},
    ),
]


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op}-{case.name}")
def test_gradcheck_and_gradgradcheck(case, activation, threads):
    threads(1)
    input, tensors, buffers = case.sample(torch.float64, seed=7)
    leaves = [leaf.requires_grad_() for leaf in (input, *tensors.values())]
    if case.op == "batch_norm_act" and not buffers:
        buffers = {"running_mean": None, "running_var": None}

    def function(input, *values):
        named = dict(zip(tensors, values, strict=True))
        return case.function(input, **named, **buffers, **case.options, activation=activation, negative_slope=0.2)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


def test_second_derivatives_leave_running_statistics_alone():
    case = next(c for c in CASES if c.op == "conv_bn_act")
    input, tensors, buffers = case.sample(torch.float64)
    input.requires_grad_()
    output = case.function(input, **tensors, **buffers, **case.options)
    after_forward = {name: buffer.clone() for name, buffer in buffers.items()}
    (grad,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    grad.square().sum().backward()
    assert all(torch.equal(buffer, after_forward[name]) for name, buffer in buffers.items())


@pytest.mark.parametrize("frozen", ["input", "weight", "bn_weight", "bn_bias"])
def test_frozen_tensors_get_no_gradient(frozen):
    case = next(c for c in CASES if c.op == "conv_bn_act")
    input, tensors, _ = case.sample(torch.float64)
    leaves = {"input": input, **tensors}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    for function in (case.function, case.reference):
        grads = torch.autograd.grad(
            function(**leaves, **case.options).square().sum(), [t for n, t in leaves.items() if n != frozen]
        )
        if function is case.function:
            found = grads
    for value, expected in zip(found, grads, strict=True):
        torch.testing.assert_close(value, expected)
    case.function(**leaves, **case.options).sum().backward()
    assert leaves[frozen].grad is None


def _raw_calls():
    d = torch.float64
    x = torch.randn(2, 3, 5, 5, dtype=d).contiguous(memory_format=torch.channels_last)
    c = torch.randn(2, 4, 2, 2, dtype=d)
    mean, invstd = torch.randn(1, 3, dtype=d), torch.rand(1, 3, dtype=d) + 0.5
    c_mean, c_invstd = torch.randn(1, 4, dtype=d), torch.rand(1, 4, dtype=d) + 0.5
    w, wt = torch.randn(4, 3, 3, 3, dtype=d), torch.randn(3, 4, 2, 2, dtype=d)
    pending = (mean, invstd, torch.randn(3, dtype=d), None, 2, 0.2)
    running = (torch.zeros(4, dtype=d), torch.ones(4, dtype=d))
    norm = (True, *running, True, 0.1, 1e-5, 1, 2, 0.2)
    plain = (False, None, None, False, 0.0, 0.0, 1, 3, 0.0)
    conv, transposed = ([2, 2], [0, 0], [1, 1], 1), ([1, 1], [2, 2], [0, 0], [1, 1], 1)
    p, sums = torch.rand(6, dtype=d), torch.randn(1, 3, 4, 2, dtype=d)
    return {
        "_batch_norm_stats": [(x, torch.zeros(3, dtype=d), torch.ones(3, dtype=d), True, 0.1, 1e-5, 2)],
        "_batch_norm_act": [(x, mean, invstd, None, None, 1, 0.0)],
        "_batch_norm_act_backward": [(x.cos(), x, mean, invstd, mean[0], None, 2, 0.2, True)],
        "_conv_bn_act": [
            (x, *pending, w, None, *conv, *norm),
            (x, *([None] * 4), 0, 0.0, w, w[:, 0, 0, 0], *conv, *plain),
        ],
        "_conv_bn_act_backward": [
            (c.cos(), c, c_mean, c_invstd, None, None, True, 2, 0.2, x, *pending, w, *conv, 7),
            (c.cos(), c, *([None] * 4), False, 1, 0.0, x, *([None] * 4), 0, 0.0, w, *conv, 2),
            (c.cos(), c, c_mean, c_invstd, None, None, True, 2, 0.2, x, *pending, w, *conv, 7, sums),
        ],
        "_conv_transpose_bn_act": [(x, *pending, wt, None, *transposed, *norm)],
        "_conv_transpose_bn_act_backward": [
            (c.cos(), c, c_mean, c_invstd, None, None, True, 2, 0.2, x, *pending, wt, *transposed, 5)
        ],
        "_bce": [(p, p.flip(0), None, None, False, 1), (p, p.flip(0), p, p, True, 0)],
        "_bce_backward": [(torch.ones((), dtype=d), p, p.flip(0), None, None, False, 1)],
        "_adversarial_bce": [(p, [1.0, 0.0], [1.0, 0.5], True)],
    }


@pytest.mark.parametrize("name", _raw_calls())
def test_opcheck(name):
    torch.manual_seed(0)
    for arguments in _raw_calls()[name]:
        if name == "_conv_transpose_bn_act_backward":  # its output has the shape that the options give
            grad = torch.randn(2, 4, 2, 2, dtype=torch.float64)
            assert arguments[0].shape == grad.shape
        opcheck(getattr(torch.ops.fastgan, name).default, arguments)


@pytest.mark.parametrize("sums", [torch.zeros(1, 1, 3, 2).double(), torch.zeros(1, 1, 4, 2)], ids=["channels", "dtype"])
def test_sums_of_another_batch_norm_are_refused(sums):
    *arguments, _ = _raw_calls()["_conv_bn_act_backward"][2]
    with pytest.raises(RuntimeError, match=r"the sums that are given .* must be dense float64, \[1, parts, 4, 2\]"):
        torch.ops.fastgan._conv_bn_act_backward(*arguments, sums)


def test_every_raw_operator_is_checked():
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::")}
    assert registered == set(_raw_calls())
    assert ops.__all__ == sorted(ops.__all__)
