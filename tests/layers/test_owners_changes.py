"""What owners change on modules, classes and tensors counts, as it does for torch.nn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_map

import fastgan.layers


def answer(call):
    """What comes of a call: its tensors, or the type of its error."""
    try:
        return call()
    except Exception as error:
        return type(error)


def both(make):
    """The same for torch.nn and for fastgan.layers."""
    found = []
    for nn in (torch.nn, fastgan.layers):
        torch.manual_seed(0)
        found.append(answer(lambda nn=nn: make(nn)))
    return found


def assert_same(make):
    torchs, ours = both(make)
    if isinstance(torchs, type):
        assert ours is torchs
        return
    tree_map(lambda a, b: torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6), torchs, ours)


def images(channels=3, size=8, **options):
    return torch.linspace(-1, 1, 2 * channels * size * size, **options).reshape(2, channels, size, size)


# ---- options --------------------------------------------------------------------------------------------------------

PADDINGS = [
    ({"padding": "same"}, {"dilation": (2, 2)}),
    ({"padding": "same", "kernel_size": 4}, {"padding": (2, 2)}),
    ({"padding": 1}, {"padding": "same"}),
    ({"padding": "same", "kernel_size": 4}, {"dilation": (3, 1)}),
    ({"padding": "same", "padding_mode": "circular"}, {"dilation": (2, 2)}),
    ({}, {"stride": 2}),
    ({}, {"stride": (2,)}),
    ({}, {"dilation": 2}),
    ({"padding": 1}, {"padding": 2}),
]


@pytest.mark.parametrize(("options", "changes"), PADDINGS)
def test_a_convolutions_options_are_read_when_it_is_called(options, changes):
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, **{"kernel_size": 3, **options}), nn.ReLU())
        for name, value in changes.items():
            setattr(net[0], name, value)
        return net(images())

    assert_same(make)


def test_padding_the_same_is_of_the_kernel_that_is_there():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.LeakyReLU(0.2))
        net[0].weight = torch.nn.Parameter(torch.randn(4, 3, 5, 2))
        return net(images())

    assert_same(make)


def test_padding_the_same_refuses_strides_that_were_set_later():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU())
        net[0].stride = (2, 2)
        return net(images())

    assert both(make) == [RuntimeError, RuntimeError]


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_batch_norm_without_a_counter(momentum):
    def make(nn):
        bn = nn.BatchNorm2d(3, momentum=momentum)
        bn.num_batches_tracked = None
        return bn(images()), bn.running_mean

    assert_same(make)


# ---- classes --------------------------------------------------------------------------------------------------------


def test_a_subclass_checks_its_input():
    def make(nn):
        class Square(nn.BatchNorm2d):
            def _check_input_dim(self, input):
                raise KeyError("not square")

        return Square(3)(images())

    assert both(make) == [KeyError, KeyError]


@pytest.mark.parametrize("target", [torch.nn.Conv2d, torch.nn.ReLU], ids=lambda kind: kind.__name__)
def test_a_class_that_was_patched_runs_as_patched(monkeypatch, target):
    name = "_conv_forward" if hasattr(target, "_conv_forward") else "forward"
    original = getattr(target, name)
    monkeypatch.setattr(target, name, lambda self, *inputs: 2 * original(self, *inputs))
    assert_same(lambda nn: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())(images()))


class Weighted(fastgan.layers.BCEWithLogitsLoss):
    """A wrapper, which tracing must not apply twice."""

    def forward(self, input, target):
        return 2 * super().forward(input, target)


class Doubling(fastgan.layers.Sequential):
    def forward(self, input):
        for layer in self:
            input = layer(input)
        return 2 * input


class Judged(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.loss = Weighted()

    def forward(self, input, target):
        return self.loss(input, target)


@pytest.mark.parametrize("make", [Judged, fastgan.layers.BCEWithLogitsLoss, fastgan.layers.BCELoss])
def test_fx_traces_subclasses_and_losses_themselves(make):
    module, inputs = make(), (torch.rand(4), torch.rand(4))
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(*inputs), module(*inputs))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_jit_scripts_the_forward_of_a_subclass():
    net = Doubling(fastgan.layers.Conv2d(3, 4, 3), fastgan.layers.ReLU())
    torch.testing.assert_close(torch.jit.script(net)(images()), net(images()))


# ---- tensors --------------------------------------------------------------------------------------------------------


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize(
    "make",
    [
        lambda nn: on_meta(lambda: nn.BatchNorm2d(3))(images()),
        lambda nn: on_meta(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))(images()),
        lambda nn: nn.BCELoss()(torch.rand(4), torch.ones(4, device="meta")),
        lambda nn: nn.BCEWithLogitsLoss(weight=torch.ones(4, device="meta"))(torch.rand(4), torch.ones(4)),
        lambda nn: nn.BCEWithLogitsLoss(pos_weight=torch.ones(4, device="meta"))(torch.rand(4), torch.ones(4)),
    ],
    ids=["batch-norm", "block", "target", "weight", "pos_weight"],
)
def test_tensors_without_data_beside_those_with(make):
    torchs, ours = both(make)
    assert isinstance(torchs, type) and ours is torchs


def test_a_probability_that_is_not_a_number_is_an_error():
    assert both(lambda nn: nn.BCELoss()(torch.tensor([0.5, torch.nan]), torch.ones(2))) == [RuntimeError, RuntimeError]


def test_complex_numbers():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()).to(torch.complex64)
        return net(images().to(torch.complex64))

    assert_same(make)


class Doubled(torch.nn.Parameter):
    """Convolutions with it give twice as much."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return 2 * found if func is torch.nn.functional.conv2d else found


def test_a_weight_that_answers_for_itself():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        net[0].weight = Doubled(net[0].weight.detach())
        return net(images())

    assert_same(make)


class Halved(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found / 2 if func is torch.nn.functional.conv2d else found


def test_a_mode_sees_torchs_functions():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        with Halved():
            return net(images())

    assert_same(make)


def test_a_default_device_leaves_chains_fused():
    net = fastgan.layers.Sequential(fastgan.layers.Conv2d(3, 4, 3), fastgan.layers.ReLU())
    with torch.device("cpu"):
        net(images())
    assert "fused" in str(fastgan.explain(net))


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_batch_of_one_in_channels_last(create_graph):
    """A dimension of size one may have any stride, but torch's backward of batch-norm goes by it."""

    def make(nn):
        bn = nn.BatchNorm2d(4).double()
        x = torch.randn(1, 4, 2, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
        w = torch.randn(1, 4, 2, 2, dtype=torch.float64)
        return torch.autograd.grad((bn(x) * w).sum(), x, create_graph=create_graph)

    assert_same(make)


@pytest.mark.parametrize("loss", ["none", "BCEWithLogitsLoss", "BCELoss"])
def test_many_gradients_at_once(loss):
    """``is_grads_batched``, by which torch makes Jacobians."""

    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 3), nn.Sigmoid())
        x = images().requires_grad_()
        output = net(x).flatten()[:4]
        if loss != "none":
            output = getattr(nn, loss)(reduction="none")(output, torch.ones(4))
        return torch.autograd.grad(output, [x, *net.parameters()], torch.eye(4), is_grads_batched=True)

    assert_same(make)


def test_what_only_frozen_blocks_read_may_be_written_over():
    def make(nn):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 3), nn.Tanh())
        net[0].requires_grad_(False)
        net[1].requires_grad_(False)
        buffer, losses = torch.empty(2, 3, 8, 8), []
        for step in range(2):
            buffer.copy_(images() * (step + 1))
            losses.append(net(buffer).mean())
        net[0].weight.data.zero_()
        sum(losses).backward()
        return [p.grad for p in net[3].parameters()], net[1].running_mean, net[1].num_batches_tracked

    assert_same(make)


def test_compile_with_modules_that_are_there_twice():
    conv, bn = fastgan.layers.Conv2d(3, 3, 3, padding=1), fastgan.layers.BatchNorm2d(3)
    tied = fastgan.layers.Sequential(conv, fastgan.layers.ReLU(), conv)
    shared = fastgan.layers.Sequential(conv, bn, fastgan.layers.ReLU(), conv, bn)
    for net in (tied, shared):
        net.zero_grad()
        twin = copy.deepcopy(net)
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        found, expected = compiled(images()), twin(images())
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        expected.sum().backward()
        for ours, truth in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bn.running_mean, twin[1].running_mean)


@pytest.mark.parametrize("frozen", [False, True], ids=["without gradients", "below others"])
def test_compile_with_a_batch_norm_that_is_there_twice_and_gets_no_gradient(frozen):
    conv, bn = fastgan.layers.Conv2d(3, 3, 3, padding=1), fastgan.layers.BatchNorm2d(3)
    net = fastgan.layers.Sequential(conv, bn, fastgan.layers.ReLU(), conv, bn).requires_grad_(False)
    if frozen:
        net.append(fastgan.layers.Conv2d(3, 2, 3))
    twin = copy.deepcopy(net)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(images()), twin(images()))
    torch.testing.assert_close(bn.running_mean, twin[1].running_mean)
    assert bn.num_batches_tracked == 2
