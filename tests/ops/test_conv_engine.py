"""The convolution engine, which ``FASTGAN_ENGINE=native`` forces, against float64 at layers of DCGAN and odd ones."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import relative_error
from raw import RawRun

from fastgan import _C, _native, layers, ops
from fastgan.ops.activation import NUMBERS
from fastgan.ops.blocks import LEAVES, Block, Conv, Norm, Parameters

# in, out, size, kernel, stride, padding, dilation, output_padding, transposed
LAYERS = {
    "3to64": (3, 64, (16, 16), 4, 2, 1, 1, 0, False),
    "64to128": (64, 128, (8, 8), 4, 2, 1, 1, 0, False),
    "512to1": (512, 1, (4, 4), 4, 1, 0, 1, 0, False),
    "100to512": (100, 512, (1, 1), 4, 1, 0, 1, 0, True),
    "128to64": (128, 64, (4, 4), 4, 2, 1, 1, 0, True),
    "64to3": (64, 3, (8, 8), 4, 2, 1, 1, 0, True),
    "winograd": (33, 40, (35, 26), 4, 2, 1, 1, 0, False),
    "winograd_transposed": (40, 33, (13, 9), 4, 2, 1, 1, 1, True),
    "winograd_deep": (130, 70, (9, 8), 4, 2, 1, 1, 0, False),
    "winograd_far_padding": (32, 64, (16, 18), 4, 2, 3, 1, 0, False),
    "winograd_stride_1": (32, 32, (12, 11), 2, 1, 0, 1, 0, False),
    "winograd_stride_3": (32, 34, (40, 31), 6, 3, 2, 1, 1, True),
    "odd": (5, 33, (7, 9), 3, 1, 1, 1, 0, False),
    "wide_kernel": (17, 7, (11, 13), 7, 2, 3, 1, 0, False),
    "dilation": (6, 9, (12, 10), 3, 2, 2, 2, 0, False),
    "one_by_one": (31, 15, (5, 3), 1, 1, 0, 1, 0, False),
    "stride_beyond_kernel": (4, 6, (3, 5), 2, 3, 0, 1, 1, True),
    "strided_rows": (8, 16, (34, 32), 4, 2, 1, 1, 0, False),
    "last_band_of_fewer_rows": (64, 8, (128, 32), 3, 2, 1, 1, 0, True),
    "last_band_of_fewer_rows_bfloat16": (64, 8, (256, 32), 3, 2, 1, 1, 0, True),
    "few_pixels": (40, 70, (2, 3), 5, 2, 2, 1, 1, True),
    "few_pixels_overlapping": (9, 18, (3, 2), 3, 1, 1, 1, 0, True),
    "dilated_transposed": (3, 5, (4, 4), 3, 2, 1, 2, 1, True),
    "large_image": (8, 8, (150, 90), 3, 1, 1, 1, 0, False),
    "large_weight": (300, 290, (4, 4), 4, 2, 1, 1, 0, False),
    "deep": (600, 20, (3, 3), 3, 1, 1, 1, 0, False),
    "many_images": (40, 70, (8, 8), 4, 2, 1, 1, 0, False),
    "many_images_transposed": (40, 34, (4, 4), 4, 2, 1, 1, 0, True),
    "many_images_of_few_channels": (2, 40, (6, 5), 3, 1, 1, 1, 0, False),
    "many_images_to_few_channels": (70, 3, (5, 7), 4, 2, 1, 1, 0, True),
}
BATCHES = {name: 37 for name in LAYERS if name.startswith("many")}  # of others: 3
# Of input and weight: how far from float64 a result may be.
DTYPES = {
    (torch.float64, torch.float64): 1e-13,
    (torch.float32, torch.float32): 4e-6,
    (torch.bfloat16, torch.bfloat16): 4e-3,
    (torch.bfloat16, torch.float32): 4e-3,  # autocast's own weights, where kernels round them
    (torch.float16, torch.float16): 5e-4,
}
BLOCKS = (
    "64to128",
    "128to64",
    "many_images",
    "many_images_transposed",
    "many_images_of_few_channels",
    "large_image",
    "strided_rows",
)


# What a block before leaves to be done: its batch-norm, with statistics of each part of the batch, and a LeakyReLU.
BEFORE = Block(None, Norm(True, 0.1, 1e-5), NUMBERS["leaky_relu"], 0.2)


def convolution_of(name: str) -> Block:
    *_, stride, padding, dilation, more, transposed = LAYERS[name]
    options = ((value, value) for value in (stride, padding, dilation))
    return Block(Conv(*options, 1, transposed, (more, more)), None, 0, 0.0)


def check_every_layer() -> None:
    """Run in a process of its own, because the choice of engine is read once."""
    _native.reset_counters()
    for name, (ins, outs, size, kernel, stride, padding, dilation, more, transposed) in LAYERS.items():
        for (dtype, weight_dtype), limit in DTYPES.items():
            for format in (torch.contiguous_format, torch.channels_last):
                torch.manual_seed(0)
                pending = format is torch.channels_last and dtype in (torch.float32, torch.bfloat16)
                x = torch.randn(BATCHES.get(name, 3), ins, *size, dtype=torch.float64)
                w = torch.randn(*((ins, outs) if transposed else (outs, ins)), kernel, kernel, dtype=torch.float64)
                x, w = (t.contiguous(memory_format=format) for t in (x.to(dtype), w.to(weight_dtype)))
                convolve = F.conv_transpose2d if transposed else F.conv2d
                options = {"stride": stride, "padding": padding, "dilation": dilation}
                wide = [t.double().requires_grad_() for t in (x, w)]
                truth = convolve(*wide, **options, **({"output_padding": more} if transposed else {}))
                grad = torch.randn_like(truth).to(dtype)
                truths = [truth, *torch.autograd.grad(truth, wide, grad.double())]
                layer = RawRun(x, [convolution_of(name)], [Parameters(w)])
                found = [layer.output, *layer.gradients(grad, 0, 1)]
                if pending:  # of which the gradient of the input reads nothing
                    affine = torch.randn(2, ins)
                    norm, before = Parameters(None, None, *affine), [BEFORE, convolution_of(name)]
                    groups = 1 if size == (1, 1) else len(x)
                    taken = RawRun(x, [BEFORE], [norm], groups).output.double()
                    weight = w.double().requires_grad_()
                    truth = convolve(taken, weight, **options, **({"output_padding": more} if transposed else {}))
                    truths += [truth, *torch.autograd.grad(truth, weight, grad.double())]
                    layer = RawRun(x, before, [norm, Parameters(w)], groups)
                    found += [layer.output, *layer.gradients(grad, 1 + LEAVES)]
                for value, expected in zip(found, truths, strict=True):
                    error = relative_error(value, expected)
                    assert error <= limit, (name, dtype, weight_dtype, format, error)
                assert [t.dtype for t in found[:3]] == [dtype, dtype, weight_dtype]
    check_blocks()
    check_chain()
    check_threads()
    counters = _native.counters()
    check_sums()
    assert not [kernel for kernel in counters if kernel.endswith("_aten")], counters
    engine = {kernel for kernel in counters if "conv" in kernel.split("/")[0]}
    assert len({kernel.split("_")[-1] for kernel in engine if "bfloat16" not in kernel}) == 1
    isas = {kernel.split("bfloat16_")[1] for kernel in engine if "bfloat16" in kernel and "winograd" not in kernel}
    assert len(isas) == 1 and (isas == {"amx"}) == (_C.cpu_isa() == "amx"), counters
    for name in ("forward", "backward_dgrad", "backward_wgrad"):
        assert any(f"/{name}_winograd_float32" in kernel for kernel in counters), counters


def check_blocks() -> None:
    """Statistics taken item by item, and the gradients of batch-norm and activation, which are taken in packing."""

    def same(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    limits = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # a value that rounds across the kink weighs the most
    for name in BLOCKS:
        ins, outs, size, kernel, stride, padding, *_, transposed = LAYERS[name]
        convolve = ops.conv_transpose_bn_act if transposed else ops.conv_bn_act
        reference = ops.conv_transpose_bn_act_reference if transposed else ops.conv_bn_act_reference
        for (dtype, limit), groups, batch_norm in product(limits.items(), (1, 2), (True, False)):
            torch.manual_seed(0)
            batch = 36 if name in BATCHES else 4
            x = torch.randn(batch, ins, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
            w = torch.randn(*((ins, outs) if transposed else (outs, ins)), kernel, kernel, dtype=dtype) * 0.1
            norm = torch.randn(4, outs) if batch_norm else [None] * 4
            results = []
            for function, convert in ((convolve, same), (reference, same), (reference, torch.Tensor.double)):
                leaves = [convert(t).detach().clone().requires_grad_() for t in (x, w)]
                scale, shift, mean, var = (t if t is None else convert(t.clone()) for t in norm)
                if batch_norm:
                    leaves += [scale.requires_grad_(), shift.requires_grad_()]
                    var = var.abs()
                options = {"stride": stride, "padding": padding, "activation": "leaky_relu", "negative_slope": 0.2}
                options |= {"bn_weight": scale, "bn_bias": shift, "running_mean": mean, "running_var": var}
                options |= {"batch_norm": batch_norm, "batch_groups": groups if batch_norm else 1}
                output = function(*leaves[:2], **options)
                torch.manual_seed(1)
                wanted = torch.randn(output.shape, dtype=torch.float64).to(dtype).to(output.dtype)
                only = torch.autograd.grad(output, leaves[1], wanted, retain_graph=True)  # without the input's
                both = torch.autograd.grad(output, leaves, wanted)
                results.append([output, *only, *both, *((mean, var) if batch_norm else ())])
            for value, eager, truth in zip(*results, strict=True):
                error, allowed = relative_error(value, truth), max(limit, 1.2 * relative_error(eager, truth))
                assert error <= allowed, (name, dtype, groups, batch_norm, error, allowed)


def check_sums() -> None:
    """What a data gradient is summed up to in passing, for the backward of the batch-norm below."""
    taken = set()
    for name, dtype, groups in product(BLOCKS, (torch.float32, torch.bfloat16), (1, 2)):
        ins, outs, size, kernel, *_, transposed = LAYERS[name]
        torch.manual_seed(0)
        x = torch.randn(36 if name in BATCHES else 4, ins, *size).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(*((ins, outs) if transposed else (outs, ins)), kernel, kernel, dtype=dtype) * 0.1
        scale, shift = torch.randn(2, ins)
        # A convolution that changes nothing, so that x is what the batch-norm is of.
        same = Parameters(torch.eye(ins, dtype=dtype)[:, :, None, None].contiguous(), None, scale, shift)
        below = BEFORE._replace(conv=Conv((1, 1), (0, 0), (1, 1), 1))
        layers = RawRun(x, [below, convolution_of(name)], [same, Parameters(w)], groups)
        assert torch.equal(layers.kept[0], x), "the convolution changed something"
        grad = torch.randn_like(layers.output)
        g = RawRun(x, [convolution_of(name)], [Parameters(w)]).gradients(grad, 0)[0]
        _native.reset_counters()
        grad_scale, grad_shift = layers.gradients(grad, 3, 4)
        if any("backward_sums_of_parts" in kernel for kernel in _native.counters()):
            taken.add((name, dtype, groups))
        mean, invstd = (t.double().repeat_interleave(len(x) // groups, 0)[:, :, None, None] for t in layers.kept[1:3])
        d = (x.double() - mean) * invstd
        g = g.double() * torch.where(d * scale.double()[:, None, None] + shift.double()[:, None, None] > 0, 1.0, 0.2)
        for found, terms in ((grad_scale, g * d), (grad_shift, g)):
            size = terms.abs().sum((0, 2, 3))  # of what may cancel
            assert ((found - terms.sum((0, 2, 3))).abs() <= 1e-5 * size).all(), (name, dtype, groups)
    names, dtypes = ("large_image", "strided_rows"), (torch.float32, torch.bfloat16)
    assert {(name, dtype, 1) for name, dtype in product(names, dtypes)} <= taken, taken
    assert {("strided_rows", dtype, 2) for dtype in dtypes} <= taken, taken


def check_threads() -> None:
    """That their number changes no bit, also of a bias's gradient."""
    before = torch.get_num_threads()
    for name, dtype, batch_norm in product(BLOCKS, (torch.float32, torch.bfloat16), (True, False)):
        ins, outs, size, kernel, stride, padding, *_, transposed = LAYERS[name]
        convolve = ops.conv_transpose_bn_act if transposed else ops.conv_bn_act
        torch.manual_seed(0)
        x = torch.randn(BATCHES.get(name, 3), ins, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(*((ins, outs) if transposed else (outs, ins)), kernel, kernel, dtype=dtype)
        leaves = [t.requires_grad_() for t in (x, w, torch.randn(outs, dtype=dtype))]
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = convolve(*leaves, stride, padding, batch_norm=batch_norm, activation="tanh")
            results.append([output, *torch.autograd.grad(output, leaves, output.detach().cos())])
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other)), (name, dtype, batch_norm)
    torch.set_num_threads(before)


def kernel_of(counter: str) -> str:
    return counter.split("/")[1].split("_channels_last")[0]


def check_chain() -> None:
    """The same sums handed from block to block."""
    torch.manual_seed(0)
    chain = layers.Sequential(
        layers.Conv2d(8, 16, 3, 1, 1, bias=False),
        layers.BatchNorm2d(16),
        layers.LeakyReLU(0.2),
        layers.Conv2d(16, 24, 4, 2, 1, bias=False),
        layers.BatchNorm2d(24),
        layers.ReLU(),
        layers.ConvTranspose2d(24, 12, 3, 1, 1, bias=False),
        layers.BatchNorm2d(12),
        layers.Tanh(),
        layers.Conv2d(12, 4, 3, 1, 1, bias=False),
    ).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(torch.nn.Sequential(*chain)).double()
    x = torch.randn(16, 8, 40, 32).contiguous(memory_format=torch.channels_last)
    for network, input in ((plain, x.double()), (chain, x)):
        network(input).pow(2).mean().backward()
    assert {"backward_sums_of_parts", "statistics_of_moments"} <= {kernel_of(name) for name in _native.counters()}
    for (name, found), truth in zip(chain.named_parameters(), plain.parameters(), strict=True):
        assert relative_error(found.grad, truth.grad) <= 1e-4, name


@pytest.mark.parametrize("isa", ["amx", "avx512", "avx2", "scalar"])
def test_every_layer(isa):
    environment = {**os.environ, "FASTGAN_ENGINE": "native", "FASTGAN_CPU_ISA": isa}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment["OMP_NUM_THREADS"] = "2"  # so that a thread goes from one image to the next
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(_C.cpu_isa() == "scalar", reason="the rule gives convolutions to torch here")
def test_no_activation_is_written_between_two_convolutions():
    run = layers.Sequential(
        layers.ConvTranspose2d(32, 64, 4, 2, 1),
        layers.BatchNorm2d(64),
        layers.ReLU(),
        layers.ConvTranspose2d(64, 32, 4, 2, 1),
    )
    _native.reset_counters()
    run(torch.randn(2, 32, 8, 8)).sum().backward()
    kernels = " ".join(_native.counters())
    assert "batch_norm_act/backward" in kernels and "batch_norm_act/forward" not in kernels


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "channels", "of"), [(torch.float32, 40, 64), (torch.bfloat16, 33, 34)], ids=str)
def test_channels_of_a_larger_tensor_never_meet_their_neighbours(dtype, channels, of, transposed):
    """Which lie where kernels pad channels, and would make NaN of a zero weight."""

    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        larger = torch.full((*tensor.permute(0, 2, 3, 1).shape[:3], of), float("nan"), dtype=dtype)
        return larger[..., of - channels :].permute(0, 3, 1, 2).copy_(tensor)

    torch.manual_seed(0)
    x, w = torch.randn(2, channels, 16, 16, dtype=dtype), torch.randn(channels, channels, 4, 4, dtype=dtype)
    convolve = ops.conv_transpose_bn_act if transposed else ops.conv_bn_act
    results = []
    for place in (sliced, lambda tensor: tensor.contiguous(memory_format=torch.channels_last)):
        leaves = [place(x).requires_grad_(), w.contiguous(memory_format=torch.channels_last).requires_grad_()]
        output = convolve(*leaves, stride=2, padding=1, batch_norm=False)
        grads = torch.autograd.grad(output, leaves, place(torch.ones_like(output)))
        results.append((output, *grads))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


if __name__ == "__main__":
    check_every_layer()
