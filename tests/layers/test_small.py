"""What is too small to gain by fusing runs by torch's modules, bit for bit, and what is not runs fused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from networks import discriminator, generator
from own_forwards import nested
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import fastgan
import fastgan.layers as nn
from fastgan import _native
from fastgan.layers import _chain, _groups, _torchs
from fastgan.ops import _engine

pytestmark = [
    pytest.mark.usefixtures("rule_of_sizes"),
    pytest.mark.skipif(not _native.loaded("cpu"), reason="without native kernels torch's modules run everything"),
]


def wide(nn):
    """Worth fusing from 8 images of 32 x 32 on, and not with fewer."""
    return nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(inplace=True))


def mixed(nn):
    """A chain that is worth it between two that are not."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        torch.nn.Upsample(64),
        nn.Conv2d(8, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        torch.nn.AdaptiveAvgPool2d(3),
        nn.BatchNorm2d(32),
    )


SMALL = {
    "discriminator": (discriminator, (4, 3, 16, 16)),
    "generator": (generator, (4, 5, 1, 1)),
    "batch_norm": (lambda nn: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "blocks": (lambda nn_: nn.Sequential(nn.ConvBNAct2d(3, 4, 3), nn.ConvTransposeBNAct2d(4, 3, 3)), (2, 3, 8, 8)),
    "padded": (
        lambda nn: nn.Sequential(nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect"), nn.Tanh()),
        (2, 3, 4, 4),
    ),
    "same": (lambda nn: nn.Sequential(nn.Conv2d(3, 4, (4, 2), padding="same"), nn.Tanh()), (2, 3, 3, 2)),
    "own forwards": (lambda nn: nested(), (4, 3, 16, 16)),
    "spectral": (
        lambda nn: nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()),
        (2, 3, 8, 8),
    ),
    "cumulative": (lambda nn: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_are_torchs_own(name):
    make, shape = SMALL[name]
    theirs = fastgan.unfuse(make(nn)) if name == "blocks" else make(torch.nn)
    ours = fastgan.fuse(make(nn))
    ours.load_state_dict(theirs.state_dict())
    _native.reset_counters()
    for _ in range(3):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert _native.counters() == {}


@pytest.mark.parametrize("images, is_fused", [(7, False), (8, True), (9, True), (7, False)])
@pytest.mark.parametrize("again", [False, True])
def test_runs_are_fused_from_a_size_on(images, is_fused, again):
    network = wide(nn)
    for _ in range(1 + again):
        _native.reset_counters()
        network(torch.randn(images, 64, 32, 32))
        assert bool(_native.counters()) is is_fused


def test_a_network_may_run_partly_fused():
    torch.manual_seed(0)
    theirs, ours = mixed(torch.nn), mixed(nn)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = torch.randn(8, 3, 12, 12)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    ran = [row.engine != "torch" for row in fastgan.explain(ours, x) if row.layer.count(".") or row.layer in "2346"]
    assert ran == [False, False, False, True, True, True, False]


def test_explain_says_so_after_any_number_of_calls():
    network, x = discriminator(nn), torch.randn(4, 3, 16, 16)
    for _ in range(3):
        network(x)
        rows = fastgan.explain(network)
        assert {(row.fused, row.engine) for row in rows} == {(False, "torch")}
        assert all("of 3 of a run, by torch's kernels: they are faster on tensors this small" in r.reason for r in rows)
    assert fastgan.explain(network, x) == fastgan.explain(network)


@pytest.mark.parametrize(
    "inside",
    [
        pytest.param(lambda network, x: _engine_native(network, x), id="FASTGAN_ENGINE=native"),
        pytest.param(lambda network, x: _two_groups(network, x), id="two batches in one launch"),
        pytest.param(lambda network, x: torch.compile(network, backend="eager")(x), id="compiled"),
    ],
)
def test_what_fuses_all_the_same(inside):
    network, x = discriminator(nn), torch.randn(4, 3, 16, 16)
    network(x)
    _native.reset_counters()
    inside(network, x)
    assert _native.counters()
    _native.reset_counters()
    network(x)
    assert not _native.counters()


def _engine_native(network, x):
    before, _engine.mode = _engine.mode, "native"
    try:
        network(x)
    finally:
        _engine.mode = before


def _two_groups(network, x):
    with _groups.batch_groups(2):
        network(x)


def test_a_change_of_a_module_is_followed():
    theirs, ours = discriminator(torch.nn), discriminator(nn)
    ours.load_state_dict(theirs.state_dict())
    x, seen = torch.randn(4, 3, 16, 16), []
    for network in (ours, theirs):
        network(x)
        network[0].stride, network[0].padding = (1, 1), (2, 2)
        network[1] = nn.Tanh() if network is ours else torch.nn.Tanh()
        network[3].eval()
        network[2].register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(ours(x), theirs(x)) and len(seen) == 2


def test_a_hook_that_came_and_went_leaves_nothing_behind():
    """A first pass that counts parameters or reads features must not keep later ones from fusing."""
    network, x = wide(nn), torch.randn(8, 64, 32, 32)
    hook = network[0].register_forward_hook(lambda *_: None)
    network(x)
    hook.remove()
    _native.reset_counters()
    network(x)
    assert _native.counters()


def test_dtype_and_autocast_are_told_apart():
    network, x = discriminator(nn), torch.randn(4, 3, 16, 16)
    for _ in range(2):
        assert network(x).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert network(x).dtype == torch.bfloat16
    network.double()
    assert network(x.double()).dtype == torch.float64
    kinds = {(key[1], key[3]) for known in _torchs._known.values() for key in known if key[0] == x.shape}
    assert {(torch.float32, False), (torch.float32, torch.bfloat16), (torch.float64, False)} <= kinds


@pytest.mark.parametrize("mode", ["auto", "aten"])
def test_what_is_torchs_is_looked_at_once(engine, monkeypatch, mode):
    """On a GPU too, where the rule gives torch all: there every microsecond between two launches counts."""
    engine(mode)
    network, x = discriminator(nn), torch.randn(4, 3, 16, 16)
    first = network(x)
    monkeypatch.setattr(_chain, "Members", None)  # of which a look makes one a block
    assert network(x).shape == first.shape


def test_what_is_remembered_is_bounded_and_goes_with_the_module():
    network = wide(nn)
    for size in range(2, 2 + 3 * _torchs._MOST):
        network(torch.randn(1, 64, 1, size))
    assert all(len(known) <= _torchs._MOST for known in _torchs._known.values())
    gone = weakref.ref(network[0])
    assert gone() in _torchs._known
    count = len(_torchs._known)
    del network
    gc.collect()
    assert gone() is None and len(_torchs._known) < count


def test_errors_are_those_of_before():
    network = discriminator(nn)
    with pytest.raises(RuntimeError, match=r"argument 'input' has 4 channels"):
        network(torch.randn(2, 4, 16, 16))
    with pytest.raises(RuntimeError, match="the output would be empty"):
        network(torch.randn(2, 3, 1, 1))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.randn(1, 3, 1, 1))


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
