"""What torch does with modules and graphs works on fastgan's as on ``torch.nn``'s, whose twin stands beside each."""

from __future__ import annotations

import copy
import importlib
import io
import pickle

import pytest
import torch
from networks import MODELS, SEQUENTIALS, D, assert_as_close, assert_same, differentiate, twins
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastgan.layers as nn

every_model = pytest.mark.parametrize("name", MODELS)
both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


# ---- autograd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["save_on_cpu", "pack_and_unpack"])
@both_modes
@every_model
def test_saved_tensor_hooks(name, train, kind):
    ours, theirs, input = twins(name, train=train)
    store: list[torch.Tensor] = []

    def pack(tensor):
        store.append(tensor.clone())
        return len(store) - 1

    def call(model, leaf):
        if kind == "save_on_cpu":
            hooks = torch.autograd.graph.save_on_cpu()
        else:
            hooks = torch.autograd.graph.saved_tensors_hooks(pack, store.__getitem__)
        with hooks:
            return model(leaf)

    found = differentiate(ours, input, call)
    assert bool(store) == (kind == "pack_and_unpack")
    assert_same(found, differentiate(theirs, input))


@pytest.mark.parametrize("reentrant", [False, True], ids=["graph", "reentrant"])
@pytest.mark.parametrize("how", ["whole", "segments"])
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_checkpoint(name, how, reentrant):
    ours, theirs, input = twins(name)

    def call(model, leaf):
        if how == "whole":
            return checkpoint(model, leaf, use_reentrant=reentrant)
        return checkpoint_sequential(model, 2, leaf, use_reentrant=reentrant)

    assert_same(differentiate(ours, input, call), differentiate(theirs, input, call))


@every_model
def test_retain_graph(name):
    ours, theirs, input = twins(name)
    results = []
    for model in (ours, theirs):
        leaf = input.clone().requires_grad_()
        output = model(leaf)
        output.sum().backward(retain_graph=True)
        output.square().sum().backward(retain_graph=True)
        output.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            output.sum().backward()
        results.append({"input": leaf.grad, **{key: p.grad for key, p in model.named_parameters()}})
    assert_same(*results)


TAILS = {
    "conv": lambda nn: [],
    "leaky_relu": lambda nn: [nn.LeakyReLU(0.2)],
    "leaky_relu_inplace": lambda nn: [nn.LeakyReLU(0.2, inplace=True)],
    "relu": lambda nn: [nn.ReLU()],
    "tanh": lambda nn: [nn.Tanh()],
    "sigmoid": lambda nn: [nn.Sigmoid()],
    "norm": lambda nn: [nn.BatchNorm2d(4)],
    "norm_leaky_relu": lambda nn: [nn.BatchNorm2d(4), nn.LeakyReLU(0.2)],
    "norm_leaky_relu_inplace": lambda nn: [nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True)],
    "norm_relu": lambda nn: [nn.BatchNorm2d(4), nn.ReLU()],
}


@both_modes
@pytest.mark.parametrize("tail", TAILS)
def test_output_changed_in_place(tail, train):
    """``y += skip``, as residual networks do: right wherever torch allows it, and nowhere wrong."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), *TAILS[tail](torch.nn)).to(D).train(train)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *TAILS[tail](nn)).to(D).train(train)
    ours.load_state_dict(theirs.state_dict())
    input, skip = torch.randn(2, 3, 6, 6, dtype=D), torch.randn(2, 4, 6, 6, dtype=D)

    def in_place(model, leaf):
        output = model(leaf)
        output += skip
        return output

    state = copy.deepcopy(theirs.state_dict())
    truth = differentiate(theirs, input, lambda model, leaf: model(leaf) + skip)
    theirs.load_state_dict(state)
    try:
        assert_same(differentiate(theirs, input, in_place), truth)
        allowed = True
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        allowed = False
    try:
        found = differentiate(ours, input, in_place)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        assert not allowed, "torch allows it"
    else:
        assert_same(found, truth)


CHANGES = {
    "input": lambda model, input: input,
    "weight": lambda model, _: next(p for key, p in model.named_parameters() if key.endswith("weight")),
    "running_var": lambda model, _: next(b for key, b in model.named_buffers() if key.endswith("running_var")),
}


@pytest.mark.parametrize("change", CHANGES)
@both_modes
@every_model
def test_saved_tensor_changed_in_place(name, train, change):
    """An error, as in torch, rather than wrong gradients."""
    if train and change == "running_var":
        pytest.skip("torch refuses here too, but running statistics are results in training, and not needed")
    *models, input = twins(name, train=train)
    raised = []
    for model in models:
        middle = input.clone().requires_grad_() * 1
        output = model(middle)
        with torch.no_grad():
            CHANGES[change](model, middle).add_(1)
        try:
            output.sum().backward()
            raised.append("")
        except RuntimeError as error:
            raised.append(str(error))
    assert all("modified by an inplace operation" in words for words in raised)


@both_modes
@every_model
def test_inference_mode(name, train):
    ours, theirs, input = twins(name, train=train)
    outputs = []
    for model in (ours, theirs):
        with torch.inference_mode():
            outputs.append(model(input))
        assert outputs[-1].is_inference()
    assert_same(*({"output": o, **m.state_dict()} for o, m in zip(outputs, (ours, theirs), strict=True)))


# ---- devices, dtypes, formats ----------------------------------------------------------------------------------------


@both_modes
@every_model
def test_meta_device(name, train):
    make, shape = MODELS[name]
    outputs = []
    for space in (nn, torch.nn):
        with torch.device("meta"):
            model = make(space).train(train)
            outputs.append(model(torch.empty(shape)))
        outputs[-1].sum().backward()
        assert all(p.grad.is_meta for p in model.parameters())
    assert (outputs[0].shape, outputs[0].stride(), outputs[0].device) == (
        outputs[1].shape,
        outputs[1].stride(),
        outputs[1].device,
    )


@every_model
def test_deterministic_algorithms(name):
    ours, theirs, input = twins(name)
    torch.use_deterministic_algorithms(True)
    try:
        first = differentiate(copy.deepcopy(ours), input)
        assert_same(first, differentiate(theirs, input))
        again = differentiate(ours, input)
        assert all(torch.equal(value, again[key]) for key, value in first.items())
    finally:
        torch.use_deterministic_algorithms(False)


@both_modes
@every_model
def test_autocast(name, train):
    ours, theirs, input = twins(name, torch.float32, train)

    def call(model, leaf):
        with torch.autocast("cpu", torch.bfloat16):
            return model(leaf)

    truth = differentiate(copy.deepcopy(theirs).to(D), input.to(D))
    assert_as_close(*(differentiate(model, input, call) for model in (ours, theirs)), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@both_modes
@every_model
def test_dtype(name, train, dtype):
    *models, input = twins(name, torch.float32, train)
    convert = {torch.float16: torch.nn.Module.half, torch.bfloat16: lambda m: m.to(torch.bfloat16)}
    models = [convert.get(dtype, lambda m: m.double().float())(model) for model in models]
    truth = differentiate(copy.deepcopy(models[1]).double(), input.to(dtype).double())
    assert_as_close(*(differentiate(model, input.to(dtype)) for model in models), truth)


@both_modes
@every_model
def test_channels_last(name, train):
    *models, input = twins(name, train=train)
    seen = [
        differentiate(m.to(memory_format=torch.channels_last), input.to(memory_format=torch.channels_last))
        for m in models
    ]
    assert_same(*seen)
    for key in ("output", "input.grad"):
        assert seen[0][key].stride() == seen[1][key].stride(), key


@pytest.mark.parametrize("name", SEQUENTIALS)
def test_grad_scaler(name):
    *models, input = twins(name, torch.float32)
    states = []
    for model in models:
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**12), torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = model(input).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0**12  # no step was skipped
        states.append(model.state_dict())
    assert_same(*states, tolerance=1e-2)


# ---- modules ---------------------------------------------------------------------------------------------------------


def _saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": _saved_and_loaded,
}


@pytest.mark.parametrize("how", COPIES)
@every_model
def test_copies(name, how):
    ours, theirs, input = twins(name)
    ours(input), theirs(input)  # a copy of a module that has run
    copied = COPIES[how](ours)
    assert type(copied) is type(ours)
    assert repr(copied) == repr(ours)
    before = copy.deepcopy(ours.state_dict())
    assert_same(differentiate(copied, input), differentiate(theirs, input))
    assert_same(ours.state_dict(), before)  # nothing is shared


def _fused_adam(model, other):
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()


def _data(model, other):
    for p in model.parameters():
        p.data = p.data * 1.5


def _data_in_place(model, other):
    for p in model.parameters():
        p.data.mul_(1.5)


def _inference_mode(model, other):
    with torch.inference_mode():
        for p in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            p.mul_(1.5)


UPDATES = {
    "fused_adam": _fused_adam,
    "data": _data,
    "data_in_place": _data_in_place,
    "load_state_dict": lambda model, other: model.load_state_dict(other),
    "load_state_dict_assign": lambda model, other: model.load_state_dict(other, assign=True),
    "inference_mode": _inference_mode,
}


@pytest.mark.parametrize("how", UPDATES)
@every_model
def test_updated_weights_are_never_stale(name, how):
    *models, input = twins(name, torch.float32, train=False)
    other = {key: value * 1.25 if value.is_floating_point() else value for key, value in models[1].state_dict().items()}
    outputs = []
    for model in models:
        model(input).sum().backward()
        seen = []
        for _ in range(2):
            UPDATES[how](model, copy.deepcopy(other))
            with torch.no_grad():
                seen.append(model(input))
        outputs.append(dict(enumerate(seen)))
    assert_same(*outputs, tolerance=1e-5)


@both_modes
@every_model
def test_replicas_of_data_parallel(name, train, monkeypatch):
    """DataParallel's own replicate, with copies on the CPU in the place of a broadcast to GPUs."""
    module = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(
        module, "_broadcast_coalesced_reshape", lambda tensors, *_, **__: [[t * 1 for t in tensors] for _ in range(2)]
    )
    *models, input = twins(name, train=train)
    seen = []
    for model in models:
        for replica in module.replicate(model, [0, 1]):
            leaf = input.clone().requires_grad_()
            output = replica(leaf)
            output.square().sum().backward()
            seen.append({"output": output, "input": leaf.grad, **{k: p.grad for k, p in model.named_parameters()}})
            seen[-1] = copy.deepcopy({k: v.detach() for k, v in seen[-1].items()})
    for found, expected in zip(seen[:2], seen[2:], strict=True):
        assert_same(found, expected)
