import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from fastgan.errors import UserError
from fastgan.training import EMA, TrainState, load_checkpoint, save_checkpoint
from fastgan.training.checkpoint import read_tensors


def make_state(seed, width=4, optimizer=torch.optim.Adam, **options):
    torch.manual_seed(seed)
    modules = [nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)) for _ in range(2)]
    modules = [module.to(memory_format=torch.channels_last) for module in modules]
    opt_g, opt_d = (optimizer(module.parameters(), lr=1e-2, **options) for module in modules)
    return TrainState(*modules, EMA(modules[0], 0.9), opt_g, opt_d)


def advance(state, steps=3):
    """Steps that depend on every global random generator; returns the weights after them."""
    for _ in range(steps):
        for module, optimizer in ((state.generator, state.opt_g), (state.discriminator, state.opt_d)):
            optimizer.zero_grad()
            images = torch.randn(4, 3, 8, 8) + float(np.random.rand()) + random.random()
            module(images).square().mean().backward()
            optimizer.step()
        state.ema.update(state.generator)
        state.step += 1
        state.images += 4
    modules = (state.generator, state.discriminator, state.ema.module)
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.Adam, {"fused": False, "amsgrad": True}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_continues_bit_for_bit(tmp_path, optimizer, options):
    state = make_state(0, optimizer=optimizer, **options)
    advance(state)
    state.facts = {"config": {"steps": 5}}
    save_checkpoint(tmp_path / "c.safetensors", state)
    expected = advance(state)

    other = make_state(1, optimizer=optimizer, **options)
    random.seed(5), np.random.seed(5)
    load_checkpoint(tmp_path / "c.safetensors", other)
    assert (other.step, other.images, other.facts) == (3, 12, {"config": {"steps": 5}})
    assert other.generator[0].weight.is_contiguous(memory_format=torch.channels_last)
    got = advance(other)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_moments_get_the_strides_of_their_weights(tmp_path):
    # Fused Adam walks a weight and its moments in memory order: other strides would mix up their elements.
    state = make_state(0, fused=True)
    advance(state)
    save_checkpoint(tmp_path / "c.safetensors", state)
    other = load_checkpoint(tmp_path / "c.safetensors", make_state(1, fused=True))
    weight = other.generator[0].weight
    assert other.opt_g.state[weight]["exp_avg"].stride() == weight.stride()


def test_before_the_first_update(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", make_state(0))
    assert load_checkpoint(tmp_path / "c.safetensors", make_state(1)).step == 0


def test_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    state = make_state(0)
    save_checkpoint(path, state)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, state)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths))[1])
    save_checkpoint(tmp_path / "c.safetensors", make_state(0))
    assert events == ["fsync", "replace", "fsync"]


def test_errors(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_checkpoint(path, make_state(0))
    save_checkpoint(path, make_state(0))
    with pytest.raises(UserError, match=r"does not fit the network Sequential .*size mismatch"):
        load_checkpoint(path, make_state(0, width=5))
    with pytest.raises(UserError, match="is not a generator of fastgan"):
        read_tensors(path, "generator")
    for damaged in (path.read_bytes()[:-100], b"", b"no checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or no safetensors file"):
            load_checkpoint(path, make_state(0))
