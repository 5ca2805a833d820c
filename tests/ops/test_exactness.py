"""Every operator against the float64 truth, for outputs, gradients and running statistics."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from cases import CASES, EAGER_FACTOR, FORMATS, TOLERANCE, evaluate, relative_error

from fastgan import _native, ops

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def typical(errors: list[float]) -> float:
    return mean(sorted(errors)[: max(1, len(errors) - 1)])


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.name}")
def test_equals_truth(case, dtype, memory_format):
    _native.reset_counters()
    errors, eager_errors = {}, {}
    # Rounding makes the error of a few values a matter of luck: several draws are taken together. The worst of each is
    # left out, since a single value that rounds across ReLU's kink changes a gradient by percents.
    for seed in range(3, 4 if dtype == torch.float64 else 9):
        found = evaluate(case.function, case, dtype, memory_format, seed)
        truth = evaluate(case.reference, case, dtype, memory_format, seed, as_dtype=torch.float64)
        eager = evaluate(case.reference, case, dtype, memory_format, seed)
        assert found["output"].stride() == eager["output"].stride()
        for name, value in found.items():
            assert (value.dtype, value.shape) == (eager[name].dtype, eager[name].shape)
            errors.setdefault(name, []).append(relative_error(value, truth[name]))
            eager_errors.setdefault(name, []).append(relative_error(eager[name], truth[name]))
    assert case.options["activation"] == "none" or any("forward" in name for name in _native.counters())
    for name, values in errors.items():
        bar = max(TOLERANCE.get(dtype, 1e-4), EAGER_FACTOR[dtype] * typical(eager_errors[name]))
        assert typical(values) <= bar, name


@pytest.mark.parametrize("case", [c for c in CASES if c.op == "batch_norm_act"][:12], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_thread_count_changes_no_bit(case, dtype, threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(evaluate(case.function, case, dtype, torch.channels_last, seed=5))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], value) for name, value in other.items())


@pytest.mark.parametrize("transform", ["sliced", "permuted", "expanded", "transposed"])
@pytest.mark.parametrize("op", ["batch_norm_act", "conv_bn_act"])
def test_awkward_memory(op, transform):
    case = next(c for c in CASES if c.op == op)
    base, tensors, _ = case.sample(torch.float64)
    awkward = {
        "sliced": torch.randn(*base.shape[:2], base.shape[2] * 2, base.shape[3] + 3, dtype=torch.float64)[
            :, :, ::2, 1 : base.shape[3] + 1
        ],
        "permuted": base.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
        "expanded": base[:1].expand_as(base),
        "transposed": base.transpose(2, 3).contiguous().transpose(2, 3),
    }[transform]
    statistics = {"running_mean": None, "running_var": None} if op == "batch_norm_act" else {}
    results = []
    for function in (case.function, case.reference):
        leaf = awkward.detach().requires_grad_()
        output = function(leaf, **tensors, **statistics, **case.options)
        (grad,) = torch.autograd.grad(output, leaf, output.detach().cos())
        results.append((output, grad))
    (output, grad), (expected, expected_grad) = results
    assert relative_error(output, expected) < 1e-10
    assert relative_error(grad, expected_grad) < 1e-10


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_large_mean_does_not_cancel(memory_format):
    case = next(c for c in CASES if c.name == "rows_and_tail")
    input, tensors, _ = case.sample(torch.float32, memory_format)
    input = input + 10_000
    results = []
    for function, dtype in (
        (case.function, torch.float32),
        (case.reference, torch.float32),
        (case.reference, torch.float64),
    ):
        running = {"running_mean": torch.zeros(24, dtype=dtype), "running_var": torch.ones(24, dtype=dtype)}
        options = {**case.options, "momentum": 1.0, **{k: v.to(dtype) for k, v in tensors.items()}}
        results.append((function(input.to(dtype), **running, **options), running["running_var"]))
    (output, variance), (eager, _), (truth, true_variance) = results
    assert relative_error(variance, true_variance) < 1e-5
    # The mean itself is rounded to float32: no method is exact here, and torch's is further off.
    assert relative_error(output, truth) <= relative_error(eager, truth)


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh", "sigmoid"])
def test_special_values_pass_through(activation):
    special = torch.tensor(
        [0.0, -0.0, 1e-40, -1e-40, 1e38, -1e38, float("inf"), float("-inf"), float("nan"), 90.0, -90.0]
    )
    input = special.repeat(3).view(1, 1, 3, 11)
    arguments = (input, torch.zeros(1), torch.ones(1))
    options = {"eps": 1e-30, "activation": activation, "negative_slope": 0.2}  # 1 + eps is 1; torch 2.11 takes no 0
    torch.testing.assert_close(
        ops.batch_norm_act(*arguments, **options),
        ops.batch_norm_act_reference(*arguments, **options),
        equal_nan=True,
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("op", ["batch_norm_act", "conv_bn_act", "conv_transpose_bn_act"])
def test_empty_batch(op):
    case = next(c for c in CASES if c.op == op)
    input, tensors, buffers = case.sample(torch.float32)
    leaf = input[:0].detach().requires_grad_()
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    output = case.function(leaf, **tensors, **buffers, **case.options)
    assert output.shape[0] == 0
    output.sum().backward()
    assert leaf.grad.shape == leaf.shape
    assert all(torch.equal(buffer, before[name]) for name, buffer in buffers.items())


def _corner(input):
    input[:, :, 0, 0] = 1_000


def _first_value(input):
    input[0, :, 0, 0] = 1e6


def _borders(input):
    input[:, :, 0] = input[:, :, -1] = 1_000


def _large_mean(input):
    input += 10_000


def _constant(input):
    input[:] = 0.1


# Whole runs; rows that do not fill one period; rows, and planes, with some left over; few, and long, rows.
SHAPES = [(16, 32, 32, 32), (2, 17, 3, 3), (37, 21, 7, 7), (3, 5, 19, 31), (40, 300, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spoil", [_corner, _first_value, _borders, _large_mean, _constant])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_no_distribution_spoils_the_statistics(shape, spoil, memory_format):
    input = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    spoil(input)
    input = input.contiguous(memory_format=memory_format)
    statistics = {}
    for function, dtype in ((ops.batch_norm_act, torch.float32), (ops.batch_norm_act_reference, torch.float64)):
        statistics[dtype] = torch.zeros(shape[1], dtype=dtype), torch.ones(shape[1], dtype=dtype)
        function(input.to(dtype), *statistics[dtype], training=True, momentum=1.0)
    (mean, variance), (true_mean, true_variance) = statistics.values()
    # A mean matters in standard deviations, but for its own rounding to float32.
    assert ((mean - true_mean).abs() <= 1e-5 * true_variance.sqrt() + 1e-7 * true_mean.abs()).all()
    assert ((variance - true_variance).abs() <= 1e-5 * true_variance + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_a_constant_channel_has_variance_0(dtype, memory_format):
    input = torch.linspace(-3e4, 3e4, 24).to(dtype).view(1, 24, 1, 1).expand(7, 24, 37, 11)
    mean, variance = torch.zeros(24), torch.ones(24)
    ops.batch_norm_act(input.contiguous(memory_format=memory_format), mean, variance, training=True, momentum=1.0)
    assert torch.equal(mean, input[0, :, 0, 0].float())
    assert torch.equal(variance, torch.zeros(24))


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_infinity_and_nan_reach_the_statistics_as_in_torch(place, memory_format):
    input = torch.randn(8, 5, 33, 32)
    flat = input.view(8, 5, -1)
    flat[place, :4, place] = torch.tensor([float("inf"), float("-inf"), float("nan"), float("inf")])
    flat[3, 3, 100] = float("-inf")
    input = input.contiguous(memory_format=memory_format)
    statistics = []
    for function in (ops.batch_norm_act, ops.batch_norm_act_reference):
        statistics.append((torch.zeros(5), torch.ones(5)))
        function(input, *statistics[-1], training=True)
    torch.testing.assert_close(*statistics, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_zero_channels():
    input = torch.zeros(2, 0, 4, 4, requires_grad=True)
    output = ops.batch_norm_act(input, None, None, training=True)
    output.sum().backward()
    assert output.shape == input.grad.shape == input.shape
