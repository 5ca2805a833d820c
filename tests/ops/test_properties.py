"""Random calls of the block operators against plain torch: shapes, options and memory that nobody thought of.

The draws are the same on every run. A failure prints the smallest call that fails, and a line that reproduces it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import geometric_mean, median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import EAGER_FACTOR, TOLERANCE, relative_error
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgan import ops

MANY = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
FEW = settings(MANY, max_examples=20)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


# ---- memory ----------------------------------------------------------------------------------------------------------


def _every_second(tensor: Tensor) -> Tensor:
    larger = tensor.new_full([2 * size + 1 for size in tensor.shape], float("nan"))
    return larger[tuple(slice(1, None, 2) for _ in tensor.shape)].copy_(tensor)


def _cropped(tensor: Tensor) -> Tensor:
    larger = tensor.new_full([size + 3 for size in tensor.shape], float("nan"))
    return larger[tuple(slice(1, -2) for _ in tensor.shape)].copy_(tensor)


def _some_channels(tensor: Tensor) -> Tensor:
    batch, channels, *pixels = tensor.shape
    padded = (
        channels // 32 + 1
    ) * 32  # as many as kernels pad them to, so that the neighbours are in the padding's place
    larger = tensor.new_full((batch, *pixels, padded), float("nan"))
    return larger[..., padded - channels :].movedim(-1, 1).copy_(tensor)


def _offset(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_full((3,), float("nan")), tensor.flatten()])[3:].view(tensor.shape)


def _reversed(tensor: Tensor) -> Tensor:
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


# The same values as views of other memory, with NaN around them.
VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "every_second": _every_second,
    "offset": _offset,
}
LAYOUTS = {
    **VECTORS,
    "cropped": _cropped,
    "channels_last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "some_channels": _some_channels,
    "swapped": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "reversed": _reversed,
}
# The first values repeated.
EXPANDED = {
    "expanded_batch": lambda t: t[:1].expand_as(t),
    "expanded_channels": lambda t: t[:, :1].expand_as(t),
    "expanded_pixels": lambda t: t[..., :1].expand_as(t),
}
ALL = {**LAYOUTS, **EXPANDED}
layouts, vector_layouts, all_layouts = (st.sampled_from(list(names)) for names in (LAYOUTS, VECTORS, ALL))


# ---- calls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of an operator, without its values."""

    op: str
    shapes: dict[str, tuple[int, ...]]  # of the differentiable tensors
    options: dict[str, Any]
    running: int  # channels of the running statistics; 0: none
    layouts: dict[str, str]  # of each tensor; `grad` and `running` too
    frozen: frozenset[str] = frozenset()

    def sample(self, dtype: torch.dtype, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """The differentiable tensors and the running statistics. Batch-norm's weights include 0 and 1e-3."""
        generator = torch.Generator().manual_seed(seed)
        wide = torch.promote_types(dtype, torch.float32)
        norm = {"weight", "bias"} if self.op == "batch_norm_act" else {"bn_weight", "bn_bias"}
        tensors = {}
        for name, shape in self.shapes.items():
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            if name == "input":
                value = value * 1.5 + 0.5
            elif name in norm and name.endswith("weight"):
                value[1:2], value[2:3] = 0.0, 1e-3
            tensors[name] = ALL[self.layouts[name]](value.to(wide if name in norm else dtype))
        running = {}
        if self.running:
            values = torch.randn(2, self.running, generator=generator, dtype=torch.float64).to(wide)
            layout = VECTORS[self.layouts["running"]]
            running = {"running_mean": layout(values[0]), "running_var": layout(values[1].square() + 0.5)}
        elif self.op == "batch_norm_act":
            running = {"running_mean": None, "running_var": None}
        return tensors, running

    def run(self, function: Callable, dtype: torch.dtype, seed: int, change: Callable = lambda t: t):
        """Output, gradients and running statistics; ``change`` is made to every tensor first."""
        tensors, running = self.sample(dtype, seed)
        tensors = {k: change(t).detach().requires_grad_(k not in self.frozen) for k, t in tensors.items()}
        running = {k: t if t is None else change(t) for k, t in running.items()}
        output = function(**tensors, **running, **self.options)
        found = {"output": output.detach(), **{k: t for k, t in running.items() if t is not None}}
        if wanted := {k: t for k, t in tensors.items() if t.requires_grad}:
            grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
            grad = change(ALL[self.layouts["grad"]](grad.to(dtype)))
            grads = torch.autograd.grad(output, list(wanted.values()), grad.to(output.dtype))
            found |= {f"grad_{k}": g for k, g in zip(wanted, grads, strict=True)}
        return found


def plain(
    input, weight=None, bias=None, *, op, batch_norm=True, bn_weight=None, bn_bias=None, running_mean=None,
    running_var=None, training=True, momentum=0.1, eps=1e-5, activation="none", negative_slope=0.01, batch_groups=1,
    **convolution,
) -> Tensor:  # fmt: skip
    """The operators in the words of torch.nn.functional, independent of fastgan."""
    if op == "batch_norm_act":
        bn_weight, bn_bias = weight, bias
    else:
        function = F.conv2d if op == "conv_bn_act" else F.conv_transpose2d
        input = function(input, weight, bias, **convolution)
    if batch_norm:
        statistics = (running_mean, running_var, bn_weight, bn_bias, training, momentum, eps)
        parts = input.chunk(batch_groups) if batch_groups > 1 else [input]
        parts = [F.batch_norm(part, *statistics) for part in parts]
        input = torch.cat(parts) if batch_groups > 1 else parts[0]
    match activation:
        case "relu":
            return F.relu(input)
        case "leaky_relu":
            return F.leaky_relu(input, negative_slope)
        case "tanh":
            return torch.tanh(input)
        case "sigmoid":
            return torch.sigmoid(input)
    return input


def plain_of(call: Call, **changed) -> Callable:
    return lambda **arguments: plain(**{**arguments, **changed}, op=call.op)


@st.composite
def norms(draw, batch: int) -> dict[str, Any]:
    """Options of the batch-norm and the activation."""
    return {
        "training": draw(st.booleans()),
        "momentum": draw(st.sampled_from([0.1, 0.0, 0.37, 1.0])),
        "eps": draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        "activation": draw(st.sampled_from(["none", "relu", "leaky_relu", "tanh", "sigmoid"])),
        "negative_slope": draw(st.sampled_from([0.2, 0.01, 0.0, 1.0, 1.5, -0.3])),
        "batch_groups": draw(st.sampled_from([g for g in (1, 1, 2, 3, 4) if batch % g == 0])),
    }


@st.composite
def norm_calls(draw, least: int = 1) -> Call:
    """Calls of batch_norm_act on 2 to 5 dimensions; ``least`` keeps the sizes up where an error is a matter of luck."""
    batch, channels = draw(st.integers(2 * (least > 1), 4)), draw(st.integers(1, 9))
    pixels = draw(st.lists(st.integers(least, 9), min_size=2 if least > 1 else 0, max_size=2 if least > 1 else 3))
    shapes = {"input": (batch, channels, *pixels)}
    shapes |= {name: (channels,) for name in ("weight", "bias") if draw(st.booleans())}
    options = draw(norms(batch))
    running = channels if not options["training"] or draw(st.booleans()) else 0
    return Call("batch_norm_act", shapes, options, running, *draw(memory(shapes)))


@st.composite
def conv_calls(draw, op: str, least: int = 1) -> Call:
    """Calls of the two operators on a convolution."""
    transposed = op == "conv_transpose_bn_act"
    batch, groups = draw(st.integers(2 * (least > 1), 4)), draw(st.sampled_from([1, 1, 2, 3]))
    size, per_group, numbers = st.integers(least, 9), st.integers(1, 9 // groups), {}
    channels_in, channels_out = draw(per_group) * groups, draw(per_group) * groups
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    for name, values in {
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "dilation": st.sampled_from([1, 1, 2]),
        **({"output_padding": st.sampled_from([0, 0, 1, 2])} if transposed else {}),
    }.items():
        numbers[name] = draw(st.one_of(values, st.tuples(values, values)))
    if not transposed and draw(st.integers(0, 5)) == 5:
        numbers["padding"] = draw(st.sampled_from(["same", "valid"]))
    options = {"groups": groups, **numbers, "batch_norm": draw(st.booleans())}
    shapes = {"input": (batch, channels_in, draw(size), draw(size))}
    one, other = (channels_in, channels_out) if transposed else (channels_out, channels_in)
    shapes["weight"] = (one, other // groups, *kernel)
    optional = ["bias", *(["bn_weight", "bn_bias"] if options["batch_norm"] else [])]
    shapes |= {name: (channels_out,) for name in optional if draw(st.booleans())}
    running = 0
    if options["batch_norm"]:
        options |= draw(norms(batch))
        running = channels_out if not options["training"] or draw(st.booleans()) else 0
    else:
        options |= {k: v for k, v in draw(norms(batch)).items() if k in ("activation", "negative_slope")}
    return Call(op, shapes, options, running, *draw(memory(shapes)))


@st.composite
def memory(draw, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, str], frozenset[str]]:
    """How tensors lie in memory, and which are frozen."""
    found = {name: draw(vector_layouts if len(shape) == 1 else layouts) for name, shape in shapes.items()}
    found |= {"input": draw(all_layouts), "grad": draw(all_layouts), "running": draw(vector_layouts)}
    frozen = draw(st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(sorted(shapes)))))
    return found, frozen


def calls(op: str, least: int = 1) -> st.SearchStrategy[Call]:
    return norm_calls(least) if op == "batch_norm_act" else conv_calls(op, least)


# ---- properties ------------------------------------------------------------------------------------------------------


def check_exact(call: Call, seed: int) -> None:
    function, reference = getattr(ops, call.op), getattr(ops, f"{call.op}_reference")
    if call.shapes["input"][0] == 0:
        assume(not raises(of_batch(call, 12), seed))  # torch checks little about an empty batch
    if raises(call, seed):
        for each in (function, reference):
            with pytest.raises((RuntimeError, ValueError)):
                call.run(each, torch.float64, seed)
        return
    assume(not has_ambiguous_slope(call, seed))
    # torch's batch-norm backward reads some strided tensors wrongly, and strided vectors past their end: so dense.
    expected = call.run(plain_of(call), torch.float64, seed, Tensor.contiguous)
    for found in (
        call.run(function, torch.float64, seed),
        call.run(reference, torch.float64, seed, Tensor.contiguous),
    ):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            truth = expected[name]
            assert (value.dtype, value.shape) == (truth.dtype, truth.shape), name
            assert relative_error(value, truth) <= TOLERANCE[torch.float64], name
    outputs = [call.run(each, torch.float64, seed)["output"] for each in (function, plain_of(call))]
    assert strides(outputs[0]) == strides(outputs[1])


def raises(call: Call, seed: int) -> bool:
    """Whether plain torch refuses the call."""
    try:
        call.run(plain_of(call), torch.float64, seed)
    except (RuntimeError, ValueError):
        return True
    return False


def of_batch(call: Call, size: int) -> Call:
    """The same with another batch."""
    return replace(call, shapes={**call.shapes, "input": (size, *call.shapes["input"][1:])})


def strides(tensor: Tensor) -> list[int]:
    """The strides that mean something; for five dimensions see test_memory_format_of_volumes."""
    if tensor.dim() > 4 or tensor.numel() == 0:
        return []
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def has_ambiguous_slope(call: Call, seed: int) -> bool:
    """Whether an activation has its kink where rounding alone decides the side: at a channel of equal values."""
    if call.options["activation"] not in ("relu", "leaky_relu"):
        return False
    value = call.run(plain_of(call, activation="none"), torch.float64, seed, Tensor.contiguous)["output"]
    return bool(((value != 0) & (value.abs() < 1e-9)).any())


@MANY
@given(call=calls("batch_norm_act"), seed=st.integers(0, 9))
def test_batch_norm_act(call, seed):
    check_exact(call, seed)


@MANY
@given(call=calls("conv_bn_act"), seed=st.integers(0, 9))
def test_conv_bn_act(call, seed):
    check_exact(call, seed)


@MANY
@given(call=calls("conv_transpose_bn_act"), seed=st.integers(0, 9))
def test_conv_transpose_bn_act(call, seed):
    check_exact(call, seed)


@pytest.mark.parametrize("op", ["batch_norm_act", "conv_bn_act", "conv_transpose_bn_act"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding(op, dtype):
    """Rounds no more than torch does, by the errors against the float64 truth.

    Tensors are small here, down to one value, which makes an error a matter of luck: one call may be off by a few times
    torch's error, all of them together may not (test_exactness holds larger tensors to it one by one).
    """
    allowed = {torch.float32: TOLERANCE[torch.float32], torch.bfloat16: 2**-8}[dtype]  # 2^-8: to round the result
    ratios = []

    @FEW
    @given(call=calls(op, least=4))
    def check(call):
        assume(not raises(call, 0))
        errors, eager_errors = {}, {}
        for seed in range(5):
            found = call.run(getattr(ops, op), dtype, seed)
            eager = call.run(plain_of(call), dtype, seed, Tensor.contiguous)
            truth = call.run(plain_of(call), dtype, seed, lambda t: t.to(torch.float64).contiguous())
            for name, value in found.items():
                assert (value.dtype, value.shape) == (eager[name].dtype, eager[name].shape), name
                errors.setdefault(name, []).append(relative_error(value, truth[name]))
                eager_errors.setdefault(name, []).append(relative_error(eager[name], truth[name]))
        for name, values in errors.items():
            error, eager_error = median(values), median(eager_errors[name])
            assert error <= max(allowed, 4 * eager_error), name
            if eager_error > 1e-12:
                ratios.append(max(error, allowed * 1e-3) / eager_error)

    check()
    assert geometric_mean(ratios) <= EAGER_FACTOR[dtype]


# ---- what the properties leave out -----------------------------------------------------------------------------------


def test_memory_format_of_volumes():
    input = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    outputs = [f(input, None, None, training=True) for f in (ops.batch_norm_act, ops.batch_norm_act_reference)]
    assert outputs[0].stride() == outputs[1].stride()


@pytest.mark.parametrize("options", [{"padding": 1}, {"output_padding": 1}], ids=["no_pixels", "output_padding"])
def test_empty_batch_of_nothing(options):
    """torch gives an empty batch a shape with options that it would refuse for images."""
    arguments = (torch.zeros(0, 1, 2, 2), torch.zeros(1, 1, 1, 1))
    shapes = [f(*arguments, **options, batch_norm=False).shape for f in (plain_transposed, ops.conv_transpose_bn_act)]
    assert shapes[0] == shapes[1]


def plain_transposed(*arguments, **options) -> Tensor:
    return plain(*arguments, op="conv_transpose_bn_act", **options)


@pytest.mark.parametrize(("eps", "training"), [(0.0, True), (-1.0, True), (-1.0, False)])
@pytest.mark.parametrize("op", [ops.batch_norm_act, ops.conv_bn_act], ids=["batch_norm_act", "conv_bn_act"])
def test_eps_has_torchs_bounds(op, eps, training):
    statistics = {"running_mean": torch.zeros(2), "running_var": torch.ones(2), "training": training, "eps": eps}
    arguments = (torch.randn(3, 2, 4, 4), *([torch.randn(2, 2, 1, 1)] if op is ops.conv_bn_act else []))
    for function in (lambda x, *rest, **options: plain(x, *rest, op=op.__name__, **options), op):
        with pytest.raises(ValueError, match="eps"):
            function(*arguments, **statistics)
