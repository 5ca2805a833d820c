"""The operators on a GPU, forced to our own kernels: `make gpu-check` runs these where there is one."""

from __future__ import annotations

import os
import statistics

import pytest
import torch
from cases import CASES, EAGER_FACTOR, FORMATS, TOLERANCE, Case, relative_error
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan import _native, ops

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Layers of DCGAN and odd ones: images, in, out, size, kernel, stride, padding, dilation, output_padding, transposed
LAYERS = {
    "3to64": (2, 3, 64, 32, 4, 2, 1, 1, 0, False),
    "256to512": (8, 256, 512, 8, 4, 2, 1, 1, 0, False),
    "512to1": (5, 512, 1, 4, 4, 1, 0, 1, 0, False),
    "100to512": (5, 100, 512, 1, 4, 1, 0, 1, 0, True),
    "512to256": (8, 512, 256, 4, 4, 2, 1, 1, 0, True),
    "64to3": (2, 64, 3, 32, 4, 2, 1, 1, 0, True),
    "odd": (3, 17, 33, 13, 3, 1, 1, 1, 0, False),
    "wide_kernel": (2, 17, 7, 21, 7, 2, 3, 1, 0, False),
    "dilated": (2, 6, 9, 15, 3, 2, 2, 2, 0, False),
    "stride_beyond_kernel": (2, 4, 6, 5, 2, 3, 0, 1, 1, True),
}
SMALL = [
    Case("norm", "batch_norm_act", (3, 2, 2, 2), {"weight": (2,), "bias": (2,)}, {"training": True}),
    Case(
        "norm", "conv_bn_act", (2, 2, 4, 4), {"weight": (3, 2, 2, 2), "bn_weight": (3,), "bn_bias": (3,)}, {"stride": 2}
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


@pytest.fixture(autouse=True)
def forced():
    """Both halves of the rule, Python's and the library's, read the variable."""
    assert os.environ.get("FASTGAN_ENGINE") == "native", "set FASTGAN_ENGINE=native, or run `make gpu-check`"
    assert _native.loaded("cuda"), _native.reason("cuda")


def on_device(
    case: Case, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format, seed: int = 0
):
    """The case's leaves, differentiable, and its buffers."""
    input, tensors, buffers = case.sample(dtype, memory_format, seed)
    leaves = {name: leaf.cuda().requires_grad_() for name, leaf in {"input": input, **tensors}.items()}
    if case.op == "batch_norm_act" and not buffers:
        return leaves, {"running_mean": None, "running_var": None}
    return leaves, {name: buffer.cuda() for name, buffer in buffers.items()}


def run(function, case: Case, leaves: dict[str, Tensor], buffers: dict[str, Tensor | None]) -> list[Tensor]:
    """Output, gradients and buffers of a call."""
    buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
    output = function(**leaves, **buffers, **case.options)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device, output.dtype)
    grads = torch.autograd.grad(output, list(leaves.values()), grad)
    return [output.detach(), *grads, *(buffer for buffer in buffers.values() if buffer is not None)]


def wide(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: leaf if leaf is None else leaf.detach().double().requires_grad_(leaf.requires_grad)
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.name}")
def test_equals_truth(case, dtype, memory_format):
    errors, eager_errors = [], []
    for seed in range(1 if dtype in TOLERANCE else 5):
        leaves, buffers = on_device(case, dtype, memory_format, seed)
        truth = run(case.reference, case, wide(leaves), wide(buffers))
        for function, to in ((case.function, errors), (case.reference, eager_errors)):
            to.append([relative_error(a, b) for a, b in zip(run(function, case, leaves, buffers), truth, strict=True)])
    for found, eager in zip(zip(*errors, strict=True), zip(*eager_errors, strict=True), strict=True):
        bar = max(TOLERANCE.get(dtype, 0.0), EAGER_FACTOR[dtype] * statistics.median(eager))
        assert statistics.median(found) <= bar


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_pass_of_a_convolution_is_ours_and_right(name, dtype):
    images, ins, outs, size, kernel, stride, padding, dilation, more, transposed = LAYERS[name]
    shape = (ins, outs, kernel, kernel) if transposed else (outs, ins, kernel, kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "batch_norm": False, "activation": "none"}
    options |= {"output_padding": more} if transposed else {}
    op = "conv_transpose_bn_act" if transposed else "conv_bn_act"
    case = Case(name, op, (images, ins, size, size), {"weight": shape}, options)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    _native.reset_counters()
    leaves, _ = on_device(case, dtype, torch.channels_last)
    found = run(case.function, case, leaves, {})
    truth = run(case.reference, case, wide(leaves), {})
    for value, expected in zip(found, truth, strict=True):
        assert relative_error(value, expected) <= limit
    counters = _native.counters()
    if counters:  # empty where fastgan._C is not loaded
        assert not [kernel for kernel in counters if kernel.endswith("_aten")]
        assert sum(kernel.endswith("_cuda") for kernel in counters) >= 3


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op}-{case.name}")
def test_first_and_second_derivatives(case):
    leaves, buffers = on_device(case, torch.float64, seed=7)

    def function(*values):
        return case.function(**dict(zip(leaves, values, strict=True)), **buffers, **case.options, activation="tanh")

    assert gradcheck(function, list(leaves.values()))
    assert gradgradcheck(function, list(leaves.values()))


def test_opcheck():
    x = torch.randn(2, 3, 5, 5, device="cuda", dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    w, grad = x.new_empty(4, 3, 3, 3).normal_(), x.new_empty(2, 4, 2, 2).normal_()
    mean, invstd, p = x.new_zeros(1, 3), x.new_ones(1, 3), x.new_empty(6).uniform_()
    source = (x, None, None, None, None, 0, 0.0)
    middle = ([2, 2], [0, 0], [1, 1], 1)
    calls = {
        "_batch_norm_stats": (x, x.new_zeros(3), x.new_ones(3), True, 0.1, 1e-5, 2),
        "_batch_norm_act": (x, mean, invstd, None, None, 1, 0.0),
        "_batch_norm_act_backward": (x.cos(), x, mean, invstd, None, None, 2, 0.2, True),
        "_conv_bn_act": (*source, w, None, *middle, False, None, None, False, 0.0, 0.0, 1, 3, 0.0),
        "_conv_bn_act_backward": (grad, grad.sin(), *[None] * 4, False, 1, 0.0, *source, w, *middle, 3),
        "_bce": (p, p.flip(0), None, None, False, 1),
        "_adversarial_bce": (p, [1.0, 0.0], [1.0, 0.5], True),
    }
    for name, arguments in calls.items():
        opcheck(getattr(torch.ops.fastgan, name).default, arguments)


def large_case() -> Case:
    """Few tiles and many pixels: its weight gradient is split."""
    shapes = {"weight": (64, 32, 4, 4), "bn_weight": (64,), "bn_bias": (64,)}
    return Case("large", "conv_bn_act", (16, 32, 64, 64), shapes, {"stride": 2, "padding": 1}, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_bit_differs_between_runs(dtype):
    leaves, buffers = on_device(large_case(), dtype, torch.channels_last)
    first = run(ops.conv_bn_act, large_case(), leaves, buffers)
    for _ in range(5):
        assert all(map(torch.equal, first, run(ops.conv_bn_act, large_case(), leaves, buffers)))


def test_capture_in_a_graph():
    case = large_case()
    leaves, buffers = on_device(case, torch.bfloat16, torch.channels_last)
    scores = torch.randn(32, device="cuda", requires_grad=True)
    grad = torch.randn_like(case.function(**leaves, **buffers, **case.options))

    def step() -> list[Tensor]:
        output = case.function(**leaves, **buffers, **case.options)
        loss = ops.adversarial_bce(scores, targets=[1.0, 0.0], weights=[1.0, 1.0])[0].sum()
        return [
            output,
            loss,
            *torch.autograd.grad([output, loss], [*leaves.values(), scores], [grad, torch.ones_like(loss)]),
        ]

    expected = [value.detach().clone() for value in step()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [value.detach() for value in step()]
    for value in captured:
        value.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, expected))


def test_two_streams_at_once():
    case = large_case()
    samples = [on_device(case, torch.bfloat16, torch.channels_last, seed) for seed in range(2)]
    expected = [run(case.function, case, *sample) for sample in samples]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in samples]
    found = [[] for _ in samples]
    for _ in range(5):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                found[i].append(run(case.function, case, *samples[i]))
    torch.cuda.synchronize()
    for once, runs in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for several in runs for a, b in zip(once, several, strict=True))


@pytest.mark.parametrize("transform", ["sliced", "permuted", "misaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", ["batch_norm_act", "conv_bn_act"])
def test_awkward_memory(op, transform, dtype):
    x = {
        "sliced": lambda: torch.randn(4, 24, 12, 9, device="cuda", dtype=dtype)[:, 3:19, ::2],
        "permuted": lambda: torch.randn(9, 4, 16, 6, device="cuda", dtype=dtype).permute(1, 2, 3, 0),
        "misaligned": lambda: (
            torch.randn(4 * 16 * 6 * 9 + 1, device="cuda", dtype=dtype)[1:].view(4, 6, 9, 16).permute(0, 3, 1, 2)
        ),
    }[transform]()
    options = {"training": True, "activation": "relu"}
    if op == "batch_norm_act":
        options |= {"running_mean": None, "running_var": None}
    else:
        options |= {"weight": torch.randn(8, 16, 3, 3, device="cuda", dtype=dtype), "stride": 2}
    found = getattr(ops, op)(x, **options)
    expected = getattr(ops, op)(x.clone(memory_format=torch.contiguous_format), **options)
    assert relative_error(found, expected) <= (1e-6 if dtype == torch.float32 else 4e-3)


def test_tensors_beyond_2_to_the_31_bytes():
    shape = (130, 64, 512, 512)  # 2.2e9 elements
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.fail("this device has too little free memory for tensors of 4.4 GB; take one of 40 GB or more")
    x = torch.empty(shape, device="cuda", dtype=torch.bfloat16, memory_format=torch.channels_last).normal_()
    y = ops.batch_norm_act(x, None, None, training=True, activation="relu")
    for image in (0, shape[0] - 1):
        assert relative_error(y[image], x[image].float().relu()) <= 1e-2
    del y
    w = torch.randn(1, 64, 4, 4, device="cuda", dtype=torch.bfloat16)
    z = ops.conv_bn_act(x, w, stride=2, padding=1, batch_norm=False, activation="none")
    last = torch.nn.functional.conv2d(x[-1:].float(), w.float(), stride=2, padding=1)
    assert relative_error(z[-1:], last) <= 1e-2
