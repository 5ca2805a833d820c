"""What is too small to gain by fusing runs by torch's modules, bit for bit, and what is not runs fused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from networks import discriminator, generator
from own_forwards import nested

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
