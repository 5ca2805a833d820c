import os
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastgan.errors import FastganWarning, UserError
from fastgan.training import EMA, TrainState, load_checkpoint, save_checkpoint
from fastgan.training.checkpoint import Damaged, NotFinite, load_newest, read_tensors, write_tensors


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
    with pytest.raises(UserError, match=r"another version of fastgan \(format 2, this one reads 1\)"):
        rewritten(path, lambda tensors, described: described.update(format=2))
        load_checkpoint(path, make_state(0))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="is not a checkpoint of fastgan"):
        load_checkpoint(path, make_state(0))
    save_checkpoint(path, make_state(0))
    for damaged in (path.read_bytes()[:-100], b"", b"no checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match="is damaged or no safetensors file"):
            load_checkpoint(path, make_state(0))


def rewritten(path, change):
    """Writes the checkpoint anew, with a valid checksum, after ``change`` has been at its tensors and description."""
    tensors, described = read_tensors(path, "checkpoint")
    change(tensors, described)
    write_tensors(path, tensors, described)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9, -1])
def test_one_wrong_bit_is_found(tmp_path, where):
    path = tmp_path / "c.safetensors"
    state = make_state(0)
    save_checkpoint(path, state)
    whole = bytearray(path.read_bytes())
    whole[int(where * len(whole)) if where > 0 else -1] ^= 4
    path.write_bytes(whole)
    before = [tensor.clone() for tensor in state.generator.state_dict().values()]
    with pytest.raises(Damaged, match=r"is damaged \(its checksum is another one\)"):
        load_checkpoint(path, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.generator.state_dict().values(), strict=True))


def test_a_wrong_description_is_found(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, make_state(0))
    whole = path.read_bytes()
    assert whole.count(b'step\\": 0') == 1
    path.write_bytes(whole.replace(b'step\\": 0', b'step\\": 7'))
    with pytest.raises(Damaged, match="checksum"):
        load_checkpoint(path, make_state(0))


def test_the_one_before_a_damaged_one_is_loaded(tmp_path):
    paths = [tmp_path / f"step-{index}.safetensors" for index in range(3)]
    assert load_newest([], make_state(0)) is None
    for step, path in enumerate(paths):
        state = make_state(step)
        state.step = step
        save_checkpoint(path, state)
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    state = make_state(5)
    with pytest.warns(FastganWarning, match=r"step-2\.safetensors is damaged; going on from .*step-1\.safetensors"):
        assert load_newest(paths, state) == paths[1]
    assert state.step == 1 and torch.equal(state.generator[0].weight, make_state(1).generator[0].weight)
    assert sorted(os.listdir(tmp_path)) == ["step-0.safetensors", "step-1.safetensors", "step-2.safetensors.damaged"]
    for path in paths[:2]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 checkpoints in .* is as it was written; bring one back"):
        load_newest(paths[:2], state)
    assert paths[0].exists() and paths[1].exists()


@pytest.mark.parametrize("part", ["generator", "discriminator", "ema", "opt_g"])
def test_what_is_not_finite_is_not_written(tmp_path, part):
    path = tmp_path / "c.safetensors"
    state = make_state(0)
    advance(state)
    save_checkpoint(path, state)
    before = path.read_bytes()
    tensor = {
        "generator": state.generator[0].weight,
        "discriminator": state.discriminator[1].bias,
        "ema": state.ema.module[0].weight,
        "opt_g": state.opt_g.state[state.generator[0].weight]["exp_avg"],
    }[part]
    tensor.detach()[0] = float("inf") if part == "opt_g" else float("nan")
    with pytest.raises(NotFinite, match=rf"{part}\..* is not finite"):
        save_checkpoint(path, state)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_are_not_finite_are_not_written(tmp_path, name):
    state = make_state(0)
    getattr(state.generator[1], name)[1] = float("inf")
    with pytest.raises(NotFinite, match=f"generator.1.{name} is not finite"):
        save_checkpoint(tmp_path / "c.safetensors", state)
    assert os.listdir(tmp_path) == []


def test_other_buffers_may_be_infinite(tmp_path):
    state = make_state(0)
    state.generator.register_buffer("mask", torch.full((2,), -torch.inf))
    save_checkpoint(tmp_path / "c.safetensors", state)
