"""First and second derivatives by finite differences, and torch's own checks of every raw operator."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan import ops
from fastgan.ops.activation import NUMBERS
from fastgan.ops.blocks import LEAVES, Block, Conv, Norm, Parameters, numbers_of
from fastgan.ops.run import kept_of

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
    """Arguments of every operator that the dispatcher knows."""
    d = torch.float64
    x = torch.randn(2, 3, 5, 5, dtype=d).contiguous(memory_format=torch.channels_last)
    w, wt = torch.randn(4, 3, 3, 3, dtype=d), torch.randn(4, 2, 2, 2, dtype=d)
    ones, p = torch.ones(4, dtype=d), torch.rand(6, dtype=d)
    conv, transposed = Conv((2, 2), (0, 0), (1, 1), 1), Conv((1, 1), (0, 0), (1, 1), 1, transposed=True)
    norm, given, slope = Norm(True, 0.1, 1e-5), Norm(False, 0.1, 1e-5), NUMBERS["leaky_relu"]

    def tracked(count):
        return torch.zeros(count, dtype=d), torch.ones(count, dtype=d), torch.tensor(7)

    runs = {  # batch_groups, and of each block its options and tensors
        "conv, conv": (1, [Block(conv, norm, slope, 0.2), Block(transposed, None, NUMBERS["tanh"], 0.0)],
                       [Parameters(w, None, ones, ones.cos(), *tracked(4)), Parameters(wt, ones[:2])]),
        "leaky": (1, [Block(conv, None, slope, 0.2)], [Parameters(w, ones)]),
        "none": (1, [Block(conv, None, 0, 0.0)], [Parameters(w)]),
        "norm, conv": (2, [Block(None, norm, 1, 0.0), Block(conv, given, 2, 0.2)],
                       [Parameters(None, None, ones[:3]), Parameters(w, ones, None, None, *tracked(4))]),
        "norm, norm": (1, [Block(None, given, 0, 0.0), Block(None, norm, 3, 0.0)],
                       [Parameters(None, None, None, None, *tracked(3)), Parameters()]),
        "per sample": (1, [Block(None, norm, 1, 0.0)], [Parameters(None, None, x[:, :, 0, 0], x[:, :, 1, 0])]),
    }  # fmt: skip
    forward, backward = [], []
    for groups, blocks, parameters in runs.values():
        given_tensors = [tensor for of_block in parameters for tensor in of_block[:LEAVES]]
        running = [tensor for of_block in parameters for tensor in of_block[LEAVES:]]
        for keeps in (True, False):
            forward.append((x, given_tensors, running, *numbers_of(blocks, keeps), groups, keeps))
        results = torch.ops.fastgan._run(*forward[-2])
        kept = kept_of(x, blocks, results)
        numbers = numbers_of(blocks, keeps=False)
        exists = [True, *(tensor is not None for tensor in given_tensors)]
        for needs in (exists, [False, *exists[1:]], [True] + [False] * len(given_tensors)):
            backward.append((results[-1].cos(), x, given_tensors, kept, *numbers, needs))
    return {
        "_run": forward,
        "_run_functional": forward,
        "_run_backward": backward,
        "_run_work": [(x, given, blocks, factors) for x, given, _, blocks, factors, *_ in forward],
        "_bce": [(p, p.flip(0), None, None, False, 1), (p, p.flip(0), p, p, True, 0)],
        "_bce_backward": [(torch.ones((), dtype=d), p, p.flip(0), None, None, False, 1)],
        "_adversarial_bce": [(p, [1.0, 0.0], [1.0, 0.5], True)],
    }


@pytest.mark.parametrize("name", _raw_calls())
def test_opcheck(name):
    torch.manual_seed(0)
    # What both writes to its arguments and returns a list cannot be compiled; _run_functional takes its place.
    checks = ("test_schema", "test_autograd_registration")
    if name != "_run_work":  # which gives numbers, and which nothing compiled calls
        checks += ("test_faketensor",) if name == "_run" else ("test_faketensor", "test_aot_dispatch_dynamic")
    for arguments in _raw_calls()[name]:
        opcheck(getattr(torch.ops.fastgan, name).default, arguments, test_utils=checks)


BROKEN = {  # what is wrong with the arguments of "conv, conv", by what is said of it
    r"there are 7 parameters, 6 running .*, 26 int.* 6 reals; of each .* 4, 3, 13 and 3": ("_run", 1, lambda t: t[1:]),
    r"there are 8 parameters, 5 running statistics": ("_run", 2, lambda t: t[1:]),
    r"block 0 has a convolution but no weight": ("_run", 1, lambda t: [None, *t[1:]]),
    r"block 0 has neither a convolution nor a batch-norm": ("_run", 3, lambda t: [0] * len(t)),
    r"'running_mean' and 'running_var' must be given together": ("_run", 2, lambda t: [None, *t[1:]]),
    r"there are 5 kept tensors and 9 needs for 2 blocks": ("_run_backward", 3, lambda t: t[1:]),
    r"what block 0 handed on is not there": ("_run_backward", 3, lambda t: [None, *t[1:]]),
    r"'num_batches_tracked' must be one int64 number": ("_run", 2, lambda t: [*t[:2], t[2].double(), *t[3:]]),
    r"block 0 has a batch-norm, but its statistics are not there": ("_run_backward", 3, lambda t: [t[0], None, *t[2:]]),
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN)
def test_what_does_not_make_a_run_is_refused(message):
    name, at, broken = BROKEN[message]
    arguments = list(_raw_calls()[name][0])
    arguments[at] = broken(arguments[at])
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.fastgan, name)(*arguments)


def test_every_raw_operator_is_checked():
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::")}
    assert registered == set(_raw_calls())
    assert ops.__all__ == sorted(ops.__all__)
