"""A traced forward holds for what Python read in it: a change of that is followed, or the module keeps its own."""

from __future__ import annotations

import functools
import threading
import types
from math import sqrt

import numpy
import pytest
import torch
import torch.nn.functional as F
from cases import relative_error
from own_forwards import Down, image, ran_natively, twins
from torch import nn

import fastgan
from fastgan import _native
from fastgan.layers import _trace

SCALE = 1.0
SCALES = [1.0, 2.0]
SETTINGS = types.ModuleType("settings")
SETTINGS.alpha = 1.0
CONFIG = types.SimpleNamespace(alpha=1.0)


def closure(alpha):
    def forward(self, x):
        return self.body(x) * alpha

    return forward


class Base(Down):
    scale = 1.0


class Reader(Base):
    kind = 1.0
    own: object = staticmethod(lambda self, x: self.body(x))

    def __init__(self) -> None:
        super().__init__(3, 4)
        self._alpha, self.cfg, self.array = 1.0, types.SimpleNamespace(alpha=1.0), numpy.ones(())
        self.scales, self.table, self.act = [1.0, 2.0], {"a": 1.0}, functools.partial(F.leaky_relu, negative_slope=0.1)
        self.noise, self.skip, self.slope = torch.ones(()), None, nn.LeakyReLU(0.1)
        self.register_buffer("shift", None)
        self.blk = nn.Sequential(nn.Identity())
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(3)])
        self.first = self.second = nn.Conv2d(4, 4, 1)

    @property
    def beta(self):
        return self._alpha * 2

    def body(self, x):
        return Down.forward(self, x)

    def forward(self, x):
        return self.own(self, x)


def through_blocks(self, x):
    x = self.body(x)
    for block in self.blocks:
        x = F.relu(block(x))
    return x


def factor(read):
    return lambda self, x: self.body(x) * read(self)


def conv():
    torch.manual_seed(7)
    return nn.Conv2d(4, 4, 1).double()


# What the forward reads, and how it changes.
FOLLOWED = {
    "a private attribute": (factor(lambda s: s._alpha), lambda n: setattr(n, "_alpha", 0.5)),
    "by a function of math": (factor(lambda s: sqrt(s._alpha)), lambda n: setattr(n, "_alpha", 0.25)),
    "through a property": (factor(lambda s: s.beta), lambda n: setattr(n, "_alpha", 0.5)),
    "a class attribute": (factor(lambda s: s.kind), lambda n: setattr(n, "kind", 0.5)),
    "an attribute that is not there yet": (
        factor(lambda s: getattr(s, "later", 1.0)),
        lambda n: setattr(n, "later", 0.5),
    ),
    "a list's content": (factor(lambda s: s.scales[0]), lambda n: n.scales.__setitem__(0, 0.5)),
    "a dict's content": (factor(lambda s: s.table["a"]), lambda n: n.table.update(a=0.5)),
    "a partial": (lambda s, x: s.act(s.body(x)), lambda n: setattr(n, "act", functools.partial(F.leaky_relu))),
    "a child's option": (factor(lambda s: s.slope.negative_slope), lambda n: setattr(n.slope, "negative_slope", 0.5)),
    "a grandchild's mode": (factor(lambda s: 3 if s.blk[0].training else 1), lambda n: n.blk[0].eval()),
    "the children of a list, appended": (through_blocks, lambda n: n.blocks.append(conv())),
    "the children of a list, deleted": (through_blocks, lambda n: n.blocks.__delitem__(slice(1, None))),
    "a child's type": (
        factor(lambda s: 3 if isinstance(s.blk[0], nn.Identity) else 1),
        lambda n: n.blk.__setitem__(0, nn.ReLU()),
    ),
    "a child that is None": (factor(lambda s: 1 if s.skip is None else 3), lambda n: setattr(n, "skip", nn.ReLU())),
    "a buffer that is None": (
        factor(lambda s: 1 if s.shift is None else s.shift),
        lambda n: setattr(n, "shift", torch.full((), 3.0)),
    ),
    "that two children are one": (lambda s, x: s.second(s.first(s.body(x))), lambda n: setattr(n, "second", conv())),
    "a parameter's dtype": (lambda s, x: s.body(x.to(s.conv.weight.dtype)), lambda n: n.float()),
}


def check_same(ours, theirs, tolerance=1e-6):
    found, truth = ours(image()), theirs(image())
    assert found.dtype == truth.dtype and relative_error(found, truth) < tolerance


def readers(own):
    Reader.own = staticmethod(own)  # on the class: an attribute of an instance would be one more thing to read
    return twins(Reader)


@pytest.mark.parametrize("what", FOLLOWED)
def test_a_change_of_what_was_read_is_followed(what):
    own, change = FOLLOWED[what]
    ours, theirs = readers(own)
    _native.reset_counters()
    check_same(ours, theirs)
    assert ran_natively() > 0
    for network in (ours, theirs):
        change(network)
    check_same(ours, theirs)


@pytest.mark.parametrize("where", ["global", "list", "file", "class", "base", "closure", "function"])
def test_a_change_outside_of_the_module_is_followed(where, monkeypatch):
    forward = closure(1.0)
    owns = {
        "global": lambda s, x: s.body(x) * SCALE,
        "list": lambda s, x: s.body(x) * SCALES[0],
        "file": lambda s, x: s.body(x) * SETTINGS.alpha,
        "base": lambda s, x: s.body(x) * type(s).scale,
        "class": lambda s, x: s.body(x) * type(s).kind,
        "closure": forward,
        "function": lambda s, x: s.body(x) * scale_of(s),
    }
    ours, theirs = readers(owns[where])
    check_same(ours, theirs)
    monkeypatch.setitem(globals(), "SCALE", 0.5)
    monkeypatch.setitem(globals(), "SCALES", [0.5])
    monkeypatch.setattr(SETTINGS, "alpha", 0.5)
    monkeypatch.setattr(Reader, "kind", 0.5)
    monkeypatch.setattr(Reader, "scale", 0.5, raising=False)
    monkeypatch.setitem(globals(), "scale_of", lambda s: 0.5)
    forward.__closure__[0].cell_contents = 0.5
    _native.reset_counters()
    check_same(ours, theirs)
    assert ran_natively() > 0


def scale_of(module):
    return SCALE


def times(alpha):
    return lambda x: x * alpha


@pytest.mark.parametrize("owner", [Down, Reader])
def test_another_forward_of_the_class(owner, monkeypatch):
    ours, theirs = readers(lambda s, x: super(Reader, s).forward(x))
    check_same(ours, theirs)
    before = owner.forward
    monkeypatch.setattr(owner, "forward", lambda self, x: before(self, x) * 3)
    check_same(ours, theirs)


DOUBLED, TRIPLED = times(2.0), times(3.0)


def test_two_functions_of_the_same_code():
    ours, theirs = readers(lambda s, x: DOUBLED(s.body(x)) + TRIPLED(s.body(x)))
    check_same(ours, theirs)
    TRIPLED.__closure__[0].cell_contents = 5.0
    check_same(ours, theirs)
    assert fastgan.explain(ours)[0].fused


REFUSED = {
    "'cfg' of Reader, an object of type SimpleNamespace": factor(lambda s: s.cfg.alpha),
    "'array' of Reader, an object of type ndarray": factor(lambda s: float(s.array)),
    "'noise' of Reader, a tensor that is neither": factor(lambda s: s.noise),
    "'CONFIG', an object of type SimpleNamespace": factor(lambda s: CONFIG.alpha),
    "'_parameters' of ": lambda s, x: s.body(x.to(next(s.parameters()).dtype)),
    "'_buffers' of ": factor(lambda s: len(list(s.buffers()))),
    "'__dict__' of ": factor(lambda s: s.__dict__["_alpha"]),
    "'_forward_hooks' of ": factor(lambda s: 1 + len(s.conv._forward_hooks)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_looked_up_again_is_refused(reason):
    ours, theirs = readers(REFUSED[reason])
    assert reason in fastgan.explain(ours)[0].reason
    check_same(ours, theirs)


def test_what_a_forward_catches_is_refused():
    def own(self, x):
        try:
            return self.body(x) * self.cfg.alpha
        except Exception:
            return self.body(x)

    ours, _ = readers(own)
    assert "'cfg' of Reader" in fastgan.explain(ours)[0].reason


def test_after_many_states_it_runs_unfused(recwarn):
    ours, theirs = readers(factor(lambda s: s._alpha))
    for step in range(_trace.MAX_STATES + 4):
        ours._alpha = theirs._alpha = step / 8
        check_same(ours, theirs)
        assert bool(step < _trace.MAX_STATES) == fastgan.explain(ours)[0].fused
    assert "more than 16 states" in fastgan.explain(ours)[0].reason
    assert len([w for w in recwarn if "more than 16 states" in str(w.message)]) == 1


def test_a_replica_is_in_the_state_of_what_it_is_a_replica_of():
    ours, _ = readers(through_blocks)
    traced = ours.__dict__["forward"].args[1]
    ours(image())
    for _ in range(3):
        replica = ours._replicate_for_data_parallel()
        replica._modules = {name: child for name, child in ours._modules.items()}
        replica(image())
    assert len(traced._variants) == 1


def test_threads_that_run_meanwhile():
    """Tracing changes methods of torch.nn.Module, and what it runs on has no data."""
    torch.manual_seed(0)
    models = [Reader().double().eval() for _ in range(4)]
    x = image()
    truth = [model(x) for model in models]
    for model in models[:2]:
        fastgan.fuse(model)
    start, wrong = threading.Barrier(4), []

    def run(model, expected):
        start.wait()
        for step in range(6):
            model._alpha = float(step)  # a new state
            if relative_error(model(x), expected) > 1e-9:
                wrong.append(model)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(models, truth, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert "__getattribute__" not in vars(nn.Module)
    assert not any(p.is_meta for model in models for p in model.parameters())
