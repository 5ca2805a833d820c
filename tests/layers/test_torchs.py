"""What is remembered of the modules that torch runs: it changes nothing between calls, and is never in the way."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import fastgan
import fastgan.layers as nn
from fastgan import _native

pytestmark = [
    pytest.mark.usefixtures("rule_of_sizes"),
    pytest.mark.skipif(not _native.loaded("cpu"), reason="without native kernels torch's modules run everything"),
]


# ---- the same kernels on every call ---------------------------------------------------------------------------------

X = (8, 3, 48, 48)  # of which the batch-norms below are worth fusing by themselves, and their chains are not
ALTERNATING = {
    "modules": lambda nn: nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Conv2d(64, 3, 3)),
    "block": lambda nn: nn.Sequential(fastgan.layers.ConvBNAct2d(3, 64, 3, activation="none"), nn.Conv2d(64, 3, 3)),
    "nested": lambda nn: nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)), nn.Conv2d(64, 3, 3)
    ),
}


class OwnConv2d(torch.nn.Conv2d):
    """Of a type that no chain takes."""


def unfusable_block(_):
    block = nn.ConvBNAct2d(3, 64, 3)
    block.conv = OwnConv2d(3, 64, 3, bias=False)
    return nn.Sequential(block)


class Added(nn.ConvBNAct2d):
    def forward(self, x):
        return x + super().forward(x)


class Layerwise(nn.Sequential):
    """Draws at every call which of its layers it has."""

    def __iter__(self):
        return (layer for layer in super().__iter__() if torch.rand(()) < 0.5)


class Resized(torch.nn.Module):
    def forward(self, x):
        return x if torch.rand(()) < 0.5 else x.repeat(1, 1, 2, 2)


ALTERNATING |= {
    "unfusable block": unfusable_block,
    "block with its own forward": lambda _: nn.Sequential(Added(3, 3, 3, padding=1)),
    "drawn layers": lambda _: Layerwise(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6))),
    "drawn sizes": lambda nn: nn.Sequential(Resized(), nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
}


@pytest.mark.parametrize("name", ALTERNATING)
@pytest.mark.parametrize("namespace", [torch.nn, nn], ids=["fused", "layers"])
def test_every_call_runs_the_same_kernels(name, namespace):
    """Or a checkpoint, which calls again, finds other tensors than before."""
    network, x = fastgan.fuse(ALTERNATING[name](namespace)), torch.randn(X)
    for seed in range(4):
        torch.manual_seed(seed)
        checkpoint(network, x.clone().requires_grad_(), use_reentrant=False).sum().backward()
    ran, outputs = [], []
    for _ in range(3):
        torch.manual_seed(0)
        _native.reset_counters()
        outputs.append(network(x))
        ran.append(_native.counters())
    assert ran == [ran[0]] * 3
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_block_with_its_own_forward_runs_it():
    network, x = nn.Sequential(Added(3, 3, 3, padding=1)).eval(), torch.randn(2, 3, 8, 8)
    expected = x + nn.ConvBNAct2d.forward(network[0], x)
    for _ in range(3):
        assert torch.equal(network(x), expected)


def test_layers_are_iterated_over_once():
    ours = Layerwise(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)))
    for seed in range(4):
        torch.manual_seed(seed)
        expected = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        x = expected
        for layer in ours:
            expected = layer(expected)
        torch.manual_seed(seed)
        torch.testing.assert_close(ours(x), expected)


# ---- what was found on one day and is wrong on another --------------------------------------------------------------


def large(nn):
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.LeakyReLU(0.2))


def _with_hook(network, x, module):
    hook = module.register_forward_hook(lambda *_: None)
    network(x)
    hook.remove()
    return network


def _with_larger_modules(network, x):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    network(x), network(x)
    network[1], network[2] = nn.Conv2d(2, 64, 3), nn.BatchNorm2d(64)
    return network


def _with_larger_modules_inside(network, x):
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), nn.Conv2d(2, 3, 1))
    network(x), network(x)
    network[0][0], network[0][1], network[1] = nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 3, 1)
    return network


def _with_a_larger_scale_that_no_output_tells(network, x):
    network = nn.Sequential(torch.nn.Upsample(8), *network, torch.nn.AdaptiveAvgPool2d(1))
    network(x), network(x)
    network[0].size = 64
    return network


def _while_a_class_was_patched(network, x):
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d, nn.BatchNorm2d):
            patch.setattr(kind, "forward", lambda self, x, forward=kind.forward: forward(self, x))
        network(x)
    return network


def _in_a_mode_without_the_question(network, x):
    with FakeTensorMode(allow_non_fake_inputs=True):
        network(x)
    return network


def _with_a_larger_scale(network, x):
    network = nn.Sequential(torch.nn.Upsample(8), nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    network(x), network(x)
    network[0].size = 64
    return network


def _after_another_with_its_first_module(network, x):
    small = nn.Sequential(network[0], nn.BatchNorm2d(64), torch.nn.AdaptiveAvgPool2d(1))
    small[1].register_forward_hook(lambda *_: None)
    small(x), small(x)
    return network


def _after_shorter_runs(network, x):
    network = fastgan.fuse(torch.nn.Sequential(*large(torch.nn), *large(torch.nn)[1:]), max_run=1)
    network(x[:1]), network(x[:1])
    return fastgan.fuse(network)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(lambda network, x: _with_hook(network, x, network[1]), id="a hook of the batch-norm"),
        pytest.param(lambda network, x: _with_hook(network, x, network[2]), id="a hook of the activation"),
        pytest.param(lambda network, x: _with_hook(nn.Sequential(network), x, network), id="a hook of what is inside"),
        pytest.param(lambda network, x: (network[:1](x), network)[1], id="a slice"),
        _with_larger_modules,
        _with_larger_modules_inside,
        _with_a_larger_scale,
        _with_a_larger_scale_that_no_output_tells,
        _while_a_class_was_patched,
        _in_a_mode_without_the_question,
        _after_another_with_its_first_module,
        _after_shorter_runs,
    ],
)
def test_what_was_found_before_keeps_nothing_from_fusing(before):
    x = torch.randn(16, 3, 64, 64)
    network = before(large(nn), x)
    _native.reset_counters()
    network(x)
    assert any(name.startswith("conv_bn_act/") for name in _native.counters())


# ---- what has no size, or another than it says ----------------------------------------------------------------------


class Cut(torch.nn.Module):
    def forward(self, weight):
        return weight[:4]


class Unhashable(torch.nn.Identity):
    __hash__ = None

    def __eq__(self, other):
        return self is other


def cut(nn):
    conv = nn.Conv2d(3, 8, 3, bias=False)
    torch.nn.utils.parametrize.register_parametrization(conv, "weight", Cut(), unsafe=True)
    return nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 5, 3))


def spectral(nn):
    return nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8))


def slope(nn, value):
    activation = nn.LeakyReLU(0.2)
    activation.negative_slope = value
    return nn.Sequential(nn.Conv2d(3, 64, 3), activation)


class OwnModules(torch.nn.Identity):
    modules = ()


class Pair(torch.nn.Module):
    def forward(self, x):
        return x, x


def own_activation(nn):
    activation = nn.ReLU()
    torch.nn.utils.parametrize.register_parametrization(
        activation.register_buffer("b", torch.ones(1)) or activation, "b", Same()
    )
    return nn.Sequential(nn.Conv2d(3, 8, 3), activation)


class Same(torch.nn.Module):
    def forward(self, b):
        return b


ODD = {
    "an attribute called modules": (
        lambda nn: nn.Sequential(OwnModules(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        (2, 3, 8, 8),
    ),
    "a parametrized activation": (own_activation, (2, 3, 8, 8)),
    "a weight that is cut": (cut, (2, 3, 8, 8)),
    "not hashable": (lambda nn: nn.Sequential(Unhashable(), nn.Conv2d(3, 8, 3), nn.ReLU()), (2, 3, 8, 8)),
    "a slope that is a parameter": (
        lambda nn: slope(nn, torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)),
        (8, 3, 66, 66),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_modules(name):
    make, shape = ODD[name]
    torch.manual_seed(0)
    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = torch.randn(shape)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_what_is_no_tensor_is_told_by_the_layer():
    for namespace in (torch.nn, nn):
        with pytest.raises(TypeError, match=r"conv2d\(\) received an invalid combination of arguments - got \(tuple"):
            namespace.Sequential(Pair(), namespace.Conv2d(3, 4, 3), namespace.ReLU())(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("images", [2, 16])
def test_a_batch_norms_own_check_is_made_once(images):
    seen = []

    class Checked(nn.BatchNorm2d):
        def _check_input_dim(self, input):
            seen.append(input.shape)

    norm = Checked(64)
    for count in (1, 2, 3):
        norm(torch.randn(images, 64, 32, 32))
        assert len(seen) == count


def test_nested_tensors():
    network = nn.Sequential(torch.nn.Linear(4, 4), nn.ReLU())
    found = network(torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)]))
    assert [len(rows) for rows in found.unbind()] == [2, 3]


@pytest.mark.parametrize(
    "inside", [lambda: torch.device("meta"), lambda: FakeTensorMode(allow_non_fake_inputs=True)], ids=["device", "fake"]
)
def test_modes_that_make_other_tensors(inside):
    network, x = spectral(nn), torch.randn(2, 3, 8, 8)
    with inside():
        assert network(x).shape == (2, 8, 6, 6)


def test_a_batch_of_one_that_shrinks_to_one_pixel():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.randn(1, 3, 3, 3))


def test_no_tensor_is_kept_for_longer():
    """Of every module's input nothing is left when the next one runs, as in torch."""
    seen: list[weakref.ref] = []

    class Mark(torch.nn.Identity):
        def forward(self, x):
            x = x + 1
            seen.append(weakref.ref(x))
            return x

    class Look(torch.nn.Identity):
        def forward(self, x):
            seen.append(seen[-1]())
            return x

    network = nn.Sequential(Mark(), nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), Look())
    with torch.no_grad():
        for images in (1, 32):
            for _ in range(2):
                network(torch.randn(images, 3, 32, 32))
                assert seen.pop() is None
