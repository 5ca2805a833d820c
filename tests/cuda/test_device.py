"""The operators on a GPU, forced to our own kernels: `make gpu-check` runs these where there is one.

``test_emulated_library.py`` runs some of them on the emulator, so that what a first GPU meets has run before.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
from dataclasses import replace

import bench_passes
import pytest
import torch
from cases import CASES, EAGER_FACTOR, FORMATS, TOLERANCE, Case, relative_error
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastgan import _native, layers, ops
from fastgan.layers._groups import batch_groups
from fastgan.ops.blocks import Block, Conv, Norm, numbers_of
from fastgan.ops.run import kept_of

DEVICE = "cpu" if "FASTGAN_EMULATED_LIBRARY" in os.environ else "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
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
# Seeds with which no value of two_blocks, transposed or not, comes nearer to a ReLU's kink than 3e-5. One in twelve has
# a value that float32 rounds across it, by any kernels, and such a value changes a gradient by percents.
FAR_FROM_KINKS = {False: 252, True: 274}
# How often two_blocks has its statistics, and the sums that a backward begins with, out of the convolution beside them.
TAKEN_IN_PASSING = {"statistics_of_moments": 2, "backward_sums_of_parts": 2}
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
def forced(monkeypatch):
    """Both halves of the rule, Python's and the library's, read the variable. torch's own kernels, which second
    derivatives and the bars come from, are to be exact and the same every time."""
    assert os.environ.get("FASTGAN_ENGINE") == "native", "set FASTGAN_ENGINE=native, or run `make gpu-check`"
    assert _native.loaded(DEVICE), _native.reason(DEVICE)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def on_device(
    case: Case, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format, seed: int = 0
):
    """The case's leaves, differentiable, and its buffers."""
    input, tensors, buffers = case.sample(dtype, memory_format, seed)
    leaves = {name: leaf.to(DEVICE).requires_grad_() for name, leaf in {"input": input, **tensors}.items()}
    if case.op == "batch_norm_act" and not buffers:
        return leaves, {"running_mean": None, "running_var": None}
    return leaves, {name: buffer.to(DEVICE) for name, buffer in buffers.items()}


def run(
    function, case: Case, leaves: dict[str, Tensor], buffers: dict[str, Tensor | None], seed: int = 1
) -> list[Tensor]:
    """Output, gradients and buffers of a call; ``seed`` is the output's gradient's."""
    buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
    output = function(**leaves, **buffers, **case.options)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device, output.dtype)
    grads = torch.autograd.grad(output, list(leaves.values()), grad)
    return [output.detach(), *grads, *(buffer for buffer in buffers.values() if buffer is not None)]


def typical(errors: list[float]) -> float:
    """Without the worst: a single value that rounds across ReLU's kink changes a gradient by percents."""
    return statistics.mean(sorted(errors)[: max(1, len(errors) - 1)])


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
    for seed in range(1 if dtype == torch.float64 else 6):
        leaves, buffers = on_device(case, dtype, memory_format, seed)
        truth = run(case.reference, case, wide(leaves), wide(buffers), seed)
        for function, to in ((case.function, errors), (case.reference, eager_errors)):
            found = run(function, case, leaves, buffers, seed)
            to.append([relative_error(a, b) for a, b in zip(found, truth, strict=True)])
    for tensor, found, eager in zip(truth, zip(*errors, strict=True), zip(*eager_errors, strict=True), strict=True):
        # A bias's gradient is a few values, which round as it happens: two standard errors of their root mean square.
        luck = 1 + 2 / math.sqrt(2 * tensor.numel() * len(found))
        assert typical(found) <= max(TOLERANCE.get(dtype, 1e-4), EAGER_FACTOR[dtype] * luck * typical(eager))


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


def two_blocks(nn, transposed: bool):
    conv = nn.ConvTranspose2d if transposed else nn.Conv2d
    first = conv(3, 72, 4, 2, 1, bias=False), nn.BatchNorm2d(72), nn.LeakyReLU(0.2)
    second = conv(72, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
    return nn.Sequential(*first, *second, conv(24, 3, 3, bias=False), nn.Tanh())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True], ids=["convolutions", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_blocks_of_a_run_are_fused_and_right(dtype, transposed, groups):
    """Statistics out of the epilogue, of images far from 0, for parts of a batch too; activations on load if asked."""
    torch.manual_seed(FAR_FROM_KINKS[transposed])
    theirs = two_blocks(torch.nn, transposed)
    # Drawn on the CPU, as the weights are, because every device draws other numbers.
    x = torch.randn(6, 3, *((5, 7) if transposed else (30, 34))).add_(20)
    theirs.to(DEVICE).double().to(memory_format=torch.channels_last)
    ours = two_blocks(layers, transposed).to(DEVICE).to(memory_format=torch.channels_last)
    ours.load_state_dict(theirs.state_dict())
    ours.to(dtype if dtype == torch.float64 else torch.float32)
    theirs.load_state_dict(ours.state_dict())
    x = x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)
    _native.reset_counters()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16), batch_groups(groups):
        found = ours(x)
    grad = torch.randn(found.shape, dtype=torch.float64).to(DEVICE)
    found.backward(grad.to(found.dtype))
    counters = _native.counters()
    expected = torch.cat([theirs(part.double()) for part in x.chunk(groups)])
    expected.backward(grad)
    # Of bfloat16, the errors of six layers' rounding; the convolutions' and batch-norms' own are tested above.
    limits = {torch.float64: (1e-10, 1e-9), torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.05, 0.3)}
    output_limit, limit = limits[dtype]
    assert relative_error(found, expected) <= output_limit
    for value, truth in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative_error(value.grad, truth.grad) <= limit
    for value, truth in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert relative_error(value, truth) <= output_limit
    if counters:
        taken = {part: sum(calls for name, calls in counters.items() if part in name) for part in TAKEN_IN_PASSING}
        assert taken == TAKEN_IN_PASSING
        written = sum(calls for name, calls in counters.items() if name.startswith("batch_norm_act/forward"))
        # Otherwise for two convolutions, forward and for their weights' gradients, one of which reads it only once.
        assert written == (0 if os.environ.get("FASTGAN_ON_LOAD") == "always" else 4 - transposed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_activation_without_batch_norm_is_turned_above(dtype):
    """In the epilogue of the data gradient above it, which reads the activation that was kept."""
    torch.manual_seed(0)
    blocks = (
        nn for conv in ((3, 24, 4, 2, 1), (24, 40, 3, 1, 1)) for nn in (layers.Conv2d(*conv), layers.LeakyReLU(0.2))
    )
    ours = layers.Sequential(*blocks, layers.Conv2d(40, 8, 3)).to(DEVICE, dtype).to(memory_format=torch.channels_last)
    theirs = torch.nn.Sequential(*copy.deepcopy(ours)).double()
    x = torch.randn(4, 3, 16, 12, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    _native.reset_counters()
    found = ours(x)
    grad = torch.randn_like(found)
    found.backward(grad)
    assert not [kernel for kernel in _native.counters() if kernel.startswith("activation/backward")]
    theirs(x.double()).backward(grad.double())
    for value, truth in zip(ours.parameters(), theirs.parameters(), strict=True):
        # bfloat16's rounding across the kink comes to 0.09 with torch's own kernels; a slope forgotten to 0.17 or more.
        assert relative_error(value.grad, truth.grad) <= (1e-12 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("transposed", [False, True], ids=["convolutions", "transposed"])
def test_a_compiled_run_computes_the_same(transposed):
    ours = two_blocks(layers, transposed).to(DEVICE).to(memory_format=torch.channels_last)
    twin, results = copy.deepcopy(ours), []
    x = torch.randn(4, 3, 14, 16, device=DEVICE).contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    for model, call in ((twin, twin), (ours, torch.compile(ours, fullgraph=True, backend="aot_eager"))):
        with torch.autocast(DEVICE, torch.bfloat16):
            output = call(x)
        output.float().square().sum().backward()
        results.append([output, *(parameter.grad for parameter in model.parameters()), *model.buffers()])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op}-{case.name}")
def test_first_and_second_derivatives(case):
    leaves, buffers = on_device(case, torch.float64, seed=7)

    def function(*values):
        return case.function(**dict(zip(leaves, values, strict=True)), **buffers, **case.options, activation="tanh")

    assert gradcheck(function, list(leaves.values()))
    # Second derivatives are torch's own kernels', some of which add in an order of chance.
    assert gradgradcheck(function, list(leaves.values()), nondet_tol=1e-9)


def test_opcheck():
    x = torch.randn(2, 3, 5, 5, device=DEVICE, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    w, ones, p = x.new_empty(4, 3, 3, 3).normal_(), x.new_ones(3), x.new_empty(6).uniform_()
    blocks = [Block(None, Norm(True, 0.1, 1e-5), 2, 0.2), Block(Conv((2, 2), (0, 0), (1, 1), 1), None, 3, 0.0)]
    given = [None, None, ones, None, w, None, None, None]
    running = [ones.cos(), ones.sin(), torch.tensor(7, device=DEVICE), None, None, None]
    forward = (x, given, running, *numbers_of(blocks, keeps=True), 1, True)
    results = torch.ops.fastgan._run_functional(*forward)[:-3]
    kept, needs = kept_of(x, blocks, results), [True, *(tensor is not None for tensor in given)]
    calls = {
        "_run_functional": forward,
        "_run_backward": (results[-1].cos(), x, given, kept, *numbers_of(blocks, keeps=False), needs),
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
    scores = torch.randn(32, device=DEVICE, requires_grad=True)
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


@pytest.mark.parametrize("which", bench_passes.PASSES)
@pytest.mark.parametrize("channels", [3, 48, 72])
def test_float32_is_rounded_where_that_is_allowed_and_only_there(channels, which):
    x, w = torch.randn(4, 24, 10, 10, device=DEVICE), torch.randn(channels, 24, 4, 4, device=DEVICE)
    grad = torch.randn(4, channels, 5, 5, device=DEVICE)
    tensors = (t.contiguous(memory_format=torch.channels_last) for t in (x, w, grad))
    convolution = bench_passes.Convolution(False, (2, 2), (1, 1), *tensors)
    truth = convolution.as_dtype(torch.float64).torch(which)
    assert relative_error(convolution.fastgan(which), truth) <= 1e-6
    error = relative_error(replace(convolution, allow_tf32=True).fastgan(which), truth)
    has_tensor_cores = DEVICE == "cpu" or torch.cuda.get_device_capability()[0] >= 8
    assert (1e-5 if has_tensor_cores else 0) <= error <= 1e-3


@pytest.mark.parametrize("transform", ["sliced", "permuted", "misaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", ["batch_norm_act", "conv_bn_act"])
def test_awkward_memory(op, transform, dtype):
    x = {
        "sliced": lambda: torch.randn(4, 24, 12, 9, device=DEVICE, dtype=dtype)[:, 3:19, ::2],
        "permuted": lambda: torch.randn(9, 4, 16, 6, device=DEVICE, dtype=dtype).permute(1, 2, 3, 0),
        "misaligned": lambda: (
            torch.randn(4 * 16 * 6 * 9 + 1, device=DEVICE, dtype=dtype)[1:].view(4, 6, 9, 16).permute(0, 3, 1, 2)
        ),
    }[transform]()
    options = {"training": True, "activation": "relu"}
    if op == "batch_norm_act":
        options |= {"running_mean": None, "running_var": None}
    else:
        options |= {"weight": torch.randn(8, 16, 3, 3, device=DEVICE, dtype=dtype), "stride": 2}
    found = getattr(ops, op)(x, **options)
    expected = getattr(ops, op)(x.clone(memory_format=torch.contiguous_format), **options)
    assert relative_error(found, expected) <= (1e-6 if dtype == torch.float32 else 4e-3)


def test_tensors_beyond_2_to_the_31_bytes():
    shape = (130, 64, 512, 512)  # 2.2e9 elements
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.fail("this device has too little free memory for tensors of 4.4 GB; take one of 40 GB or more")
    x = torch.empty(shape, device=DEVICE, dtype=torch.bfloat16, memory_format=torch.channels_last).normal_()
    y = ops.batch_norm_act(x, None, None, training=True, activation="relu")
    for image in (0, shape[0] - 1):
        assert relative_error(y[image], x[image].float().relu()) <= 1e-2
    del y
    w = torch.randn(1, 64, 4, 4, device=DEVICE, dtype=torch.bfloat16)
    z = ops.conv_bn_act(x, w, stride=2, padding=1, batch_norm=False, activation="none")
    last = torch.nn.functional.conv2d(x[-1:].float(), w.float(), stride=2, padding=1)
    assert relative_error(z[-1:], last) <= 1e-2
