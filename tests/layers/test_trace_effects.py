"""What a forward does besides computing with its input: it is done as often as before, and never by ``fuse`` itself."""

from __future__ import annotations

import copy
import gc
import itertools
import random
import sys
import types

import numpy
import pytest
import torch
import torch.nn.functional as F
from cases import relative_error
from own_forwards import Down, image, ran_natively, results, twins
from torch import nn

import fastgan
from fastgan import _native

LOG: list = []
COUNTS = {"calls": 0}


class Doer(Down):
    calls = 0

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.register_buffer("count", torch.zeros(()))
        self.seen, self.object, self.own = [], types.SimpleNamespace(calls=0), None

    def forward(self, x):
        return DO[self.own](self, x, super().forward)


def counts_in_a_buffer(self, x, body):
    self.count += 1
    return body(x)


def counts_in_a_buffers_data(self, x, body):
    for buffer in self.buffers():
        buffer += 1
    return body(x)


def switches_a_child(self, x, body):
    self.bn.eval()
    return body(x)


def remembers(self, x, body):
    self.seen.append(1)
    return body(x)


def counts_in_an_object(self, x, body):
    self.object.calls += 1
    return body(x)


def counts_in_its_class(self, x, body):
    type(self).calls += 1
    return body(x)


def counts_in_a_global(self, x, body):
    COUNTS["calls"] += 1
    return body(x)


def logs_for_tensors_only(self, x, body):
    if isinstance(x, torch.Tensor):
        LOG.append(1)
    return body(x)


def prints(self, x, body):
    print("called")
    return body(x)


def draws_by_python(self, x, body):
    return body(x) * (2 if random.random() < 0.5 else 1)


def draws_by_numpy(self, x, body):
    return body(x) * (2 if numpy.random.rand() < 0.5 else 1)


def seeds(self, x, body):
    torch.manual_seed(0)
    return body(x)


def sets_data(self, x, body):
    h = body(x)
    h.data = h.data + 1
    return h


EFFECTS = {
    **{counts_in_a_buffer: "sets 'count' of Doer", counts_in_a_buffers_data: "'_buffers' of Doer"},
    **{switches_a_child: "sets 'training' of BatchNorm2d", remembers: "changes the module's own"},
    **{counts_in_an_object: "'object' of Doer, an object of type SimpleNamespace", counts_in_its_class: "'calls'"},
    **{counts_in_a_global: "'COUNTS'", logs_for_tensors_only: "something else for a tensor", prints: "prints"},
    **{
        draws_by_python: "draws random numbers",
        draws_by_numpy: "draws random numbers",
        seeds: "draws random numbers",
        sets_data: "sets 'data' of a tensor",
    },
}


# ---- contexts --------------------------------------------------------------------------------------------------------


def autocast_off(self, x, body):
    with torch.autocast("cpu", enabled=False):
        return body(x)


def autocast_on(self, x, body):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return body(x)


def gradients_on(self, x, body):
    with torch.enable_grad():
        return body(x)


def gradients_off(self, x, body):
    with torch.no_grad():
        return body(x)


def gradients_in_training(self, x, body):
    with torch.set_grad_enabled(self.training):
        return body(x)


def inference(self, x, body):
    with torch.inference_mode():
        return body(x)


def saved_elsewhere(self, x, body):
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        return body(x)


def asks_for_gradients(self, x, body):
    return body(x) * (2 if torch.is_grad_enabled() else 1)


CONTEXTS = [autocast_off, autocast_on, gradients_on, gradients_off, gradients_in_training, inference, saved_elsewhere]
DO = {f.__name__: f for f in [*EFFECTS, *CONTEXTS, asks_for_gradients]}


def doers(own):
    def make():
        module = Doer()
        module.own = own.__name__
        return module

    return twins(make, dtype=torch.float32)


def outside():
    states = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
    return copy.deepcopy((LOG, COUNTS, Doer.calls, states))


def inside(module):
    attributes = [[(k, v) for k, v in vars(m).items() if not callable(v)] for m in module.modules()]
    return repr([attributes, [b._version for b in module.buffers()]])


@pytest.mark.parametrize("own", EFFECTS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::fastgan.errors.FastganWarning")
def test_it_is_done_as_often_as_before(own, capsys):
    network = Doer()
    network.own = own.__name__
    before = inside(network), outside()
    fastgan.fuse(network)
    fastgan.explain(network)
    assert (inside(fastgan.unfuse(network)), outside()) == before
    assert capsys.readouterr().out == ""
    seen = []
    for model in doers(own):
        LOG.clear(), COUNTS.update(calls=0), setattr(Doer, "calls", 0)
        random.seed(0), numpy.random.seed(0)
        outputs = [model(image(torch.float32)).detach() for _ in range(4)]
        tensors = [float(value.sum()) for value in (*outputs, *model.buffers())]
        seen.append(([round(v, 3) for v in tensors], outside(), model.seen, model.object, capsys.readouterr().out))
    assert seen[0] == seen[1]
    fused = fastgan.fuse(model)
    fused(image(torch.float32))
    assert EFFECTS[own] in fastgan.explain(fused)[0].reason


@pytest.mark.parametrize("own", [*CONTEXTS, asks_for_gradients], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::fastgan.errors.FastganWarning")
def test_what_a_forward_switches_is_switched(own):
    models = doers(own)
    for enabled, training, autocast in itertools.product((True, False), repeat=3):
        with torch.set_grad_enabled(enabled), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = [model.train(training)(image(torch.float32)) for model in models]
        for asked in ("dtype", "requires_grad"):
            assert getattr(found[0], asked) == getattr(found[1], asked)
        assert found[0].is_inference() == found[1].is_inference()
        torch.testing.assert_close(*found)
    assert not fastgan.explain(models[0])[0].fused


def test_what_the_garbage_collector_calls_is_not_the_forwards():
    """Such as hypothesis, which notes when a collection began."""

    def note(phase, info):
        COUNTS[phase] = COUNTS.get(phase, 0) + 1

    network, threshold = Down(3, 4), gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        fastgan.fuse(network)(image(torch.float32))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(note)
    assert COUNTS.pop("start") and COUNTS.pop("stop") and gc.isenabled()
    assert fastgan.explain(network)[0].fused


def test_nothing_of_tracing_is_left():
    profiled = []
    sys.setprofile(profile := lambda *event: profiled.append(1))
    try:
        fastgan.fuse(Doer())
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert "__getattribute__" not in vars(nn.Module)


# ---- in place --------------------------------------------------------------------------------------------------------


def an_alias(h, x):
    skip = h
    h += 1
    return h * skip


def a_view(h, x):
    view = h[:, :2]
    view *= 2
    return h


def an_attribute(h, x):
    turned = h.mT
    turned += 1
    return h


def a_number(h, x):
    size = half = x.shape[2]
    half //= 2
    return (h + x.mean()).relu() * size * half  # without ReLU batch-norm would have next to no gradient


def every_operator(h, x):
    h += 1
    h -= 0.5
    h *= 2
    h /= 3
    h **= 2
    h %= 0.7
    return h


def an_operator_that_gives_a_mask(h, x):
    mask = h > 0
    mask &= h < 1
    return h * mask


def a_whole_slope(h, x):
    return F.leaky_relu(h, 0)


IN_PLACE = [an_alias, a_view, an_attribute, a_number, every_operator, an_operator_that_gives_a_mask, a_whole_slope]


class InPlace(Down):
    def __init__(self, operate) -> None:
        super().__init__(3, 4)
        self.operate = operate

    def forward(self, x):
        return self.operate(self.bn(self.conv(x)), x)


@pytest.mark.parametrize("operate", IN_PLACE, ids=lambda f: f.__name__)
def test_operators_work_in_place_as_before(operate):
    ours, theirs = twins(lambda: InPlace(operate))
    _native.reset_counters()
    found, truth = results(ours), results(theirs)
    for name, value in truth.items():
        assert relative_error(found[name], value) < 1e-10, name
    assert ran_natively() > 0


# ---- common networks -------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.downs = nn.ModuleList([Down(3, 4), Down(4, 8)])
        self.ups = nn.ModuleList([nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(3)])

    def forward(self, x):
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = F.relu(norm(up(x)))
            if skips:
                x = torch.cat([x, skips.pop()], 1)
        return torch.tanh(x)


class Conditional(nn.Module):
    def __init__(self, size=4):
        super().__init__()
        self.size = size
        self.embed = nn.Embedding(10, 16)
        self.conv1, self.bn1 = nn.ConvTranspose2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8)
        self.conv2 = nn.ConvTranspose2d(9, 3, 4, 2, 1)

    def forward(self, x, labels):
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        plane = self.embed(labels).view(-1, 1, self.size, self.size)
        h = torch.cat([h, F.interpolate(plane, size=h.shape[2:])], dim=1)
        return torch.tanh(self.conv2(h))


NETWORKS = {
    "residual": (lambda: BasicBlock(3, 3), 2),
    "residual_downsampling": (lambda: BasicBlock(3, 8, 2), 3),
    "unet": (UNet, 4),
    "conditional": (Conditional, 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_common_networks_are_fused(name):
    make, convolutions = NETWORKS[name]
    ours, theirs = twins(make)
    labels = [torch.tensor([1, 2, 0, 9])] if name == "conditional" else []
    _native.reset_counters()
    found, truth = (model(image(), *labels) for model in (ours, theirs))
    assert relative_error(found, truth) < 1e-10
    assert ran_natively() == convolutions
    for output in (found, truth):
        output.square().sum().backward()
    for (parameter, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) < 1e-9, parameter
