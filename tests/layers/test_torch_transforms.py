"""torch.compile, export, tracing, functorch and the profiler on fastgan's modules, as on ``torch.nn``'s."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import MODELS, SEQUENTIALS, assert_same, differentiate, twins

import fastgan.layers as nn

every_model = pytest.mark.parametrize("name", MODELS)
both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


@pytest.fixture
def dynamo():
    """An empty cache, before and after."""
    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


# ---- torch.compile and export ----------------------------------------------------------------------------------------


@both_modes
@every_model
def test_compile(name, train, dynamo):
    """One graph without a break, forward and backward, and the same numbers on every call."""
    ours, theirs, input = twins(name, train=train)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        expected = differentiate(theirs, input)
        assert_same(differentiate(ours, input, lambda _, leaf: compiled(leaf)), expected)


@every_model
def test_compile_without_gradients(name, dynamo):
    ours, theirs, input = twins(name, train=False)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same({"output": compiled(input)}, {"output": theirs(input)})


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_compile_under_autocast(name, dynamo):
    ours, _, input = twins(name)
    ours, input = ours.float(), input.float()
    twin, results = copy.deepcopy(ours), []
    for model, call in ((twin, twin), (ours, torch.compile(ours, fullgraph=True, backend="aot_eager"))):
        with torch.autocast("cpu", torch.bfloat16):
            output = call(input)
        output.float().square().sum().backward()
        grads = {f"grad of {key}": parameter.grad for key, parameter in model.named_parameters()}
        results.append({"output": output.detach(), **grads, **model.state_dict()})
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_compile_has_no_break_and_does_not_recompile(dynamo):
    ours, _, input = twins("discriminator")
    explained = dynamo.explain(ours)(input)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    with dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            compiled(input).sum().backward()


@both_modes
@every_model
def test_export(name, train):
    """A program of torch's own operators alone: it runs where fastgan is not installed."""
    ours, theirs, input = twins(name, train=train)
    program = torch.export.export(ours, (input,))
    assert "fastgan" not in program.graph_module.code
    loaded = program.module()
    for _ in range(2):
        assert_same({"output": loaded(input).detach()}, {"output": theirs(input).detach()})
    buffers = {key: buffer for key, buffer in loaded.named_buffers() if key in theirs.state_dict()}
    assert_same(buffers, dict(theirs.named_buffers()))


@both_modes
@every_model
def test_export_with_a_dynamic_batch(name, train):
    ours, theirs, input = twins(name, train=train)
    program = torch.export.export(ours, (input,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    more = torch.cat([input, input * 0.5])
    assert_same({"output": program.module()(more).detach()}, {"output": theirs(more).detach()})


@both_modes
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_fx_trace(name, train):
    ours, theirs, input = twins(name, train=train)
    results = []
    for model in (theirs, ours):
        traced = torch.fx.symbolic_trace(model)
        assert "fastgan" not in traced.code
        results.append([differentiate(traced, input), differentiate(traced, input)])
    for expected, found in zip(*results, strict=True):
        unused = {key for key in expected if key.endswith("num_batches_tracked")} - found.keys()
        assert not (train and unused)  # a trace has only what it uses, and keeps torch's modules whole
        assert_same(found, {key: value for key, value in expected.items() if key not in unused})


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@both_modes
@every_model
def test_jit_script(name, train):
    ours, theirs, input = twins(name, train=train)
    scripted = torch.jit.script(ours)
    assert "fastgan::" not in str(scripted.inlined_graph)
    assert_same({"output": scripted(input).detach()}, {"output": theirs(input).detach()})


class WithLoss(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, input, target):
        return self.loss(input.sigmoid(), target)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("convert", [torch.fx.symbolic_trace, torch.jit.script])
@pytest.mark.parametrize("loss", ["BCELoss", "BCEWithLogitsLoss"])
def test_losses_are_traced_and_scripted_as_torchs(loss, convert):
    input, target = torch.randn(5), torch.rand(5)
    ours, theirs = (WithLoss(getattr(namespace, loss)()) for namespace in (nn, torch.nn))
    torch.testing.assert_close(convert(ours)(input, target), theirs(input, target))


# ---- functorch -------------------------------------------------------------------------------------------------------


def _functional_call(model, input):
    state = {key: value * 1.5 if value.is_floating_point() else value for key, value in model.state_dict().items()}
    return {"output": torch.func.functional_call(model, state, input)}


def _grad(model, input):
    def loss(parameters, input):
        return torch.func.functional_call(model, parameters, input).square().sum()

    return torch.func.grad(loss)({key: p.detach() for key, p in model.named_parameters()}, input)


def _gradients_of_each(model, input):
    def loss(parameters, one):
        return torch.func.functional_call(model, parameters, one[None]).square().sum()

    parameters = {key: p.detach() for key, p in model.named_parameters()}
    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, input)


def _ensemble(model, input):
    models = [copy.deepcopy(model), copy.deepcopy(model)]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(1.5)
    parameters, buffers = torch.func.stack_module_state(models)
    call = torch.vmap(lambda *state: torch.func.functional_call(model, state, input))
    return {"output": call(parameters, buffers)}


def _directional(model, input):
    output, tangent = torch.func.jvp(model, (input,), (input.cos(),))
    return {"output": output, "tangent": tangent}


TRANSFORMS = {
    "functional_call": _functional_call,
    "vmap": lambda model, input: {"output": torch.vmap(lambda one: model(one[None])[0])(input)},
    "grad": _grad,
    "gradients_of_each": _gradients_of_each,
    "ensemble": _ensemble,
    "vjp": lambda model, input: {"grad": torch.func.vjp(model, input)[1](torch.ones_like(model(input)))[0]},
    "jvp": _directional,
    "jacrev": lambda model, input: {"jacobian": torch.func.jacrev(lambda x: model(x).sum((1, 2, 3)))(input[:2])},
    "hessian": lambda model, input: {
        "hessian": torch.func.hessian(lambda x: model(input * x).square().sum())(torch.ones((), dtype=input.dtype))
    },
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, of jvp
@pytest.mark.parametrize("transform", TRANSFORMS)
@every_model
def test_functorch(name, transform):
    *models, input = twins(name, train=False)
    found, expected = (TRANSFORMS[transform](model, input) for model in models)
    detached = [{key: value.detach() for key, value in values.items()} for values in (found, expected)]
    assert_same(*detached, tolerance=1e-9)  # second derivatives and their like are large


@every_model
def test_functional_call_in_training_updates_the_buffers_given(name):
    *models, input = twins(name)
    states = []
    for model in models:
        state = {key: value.clone() for key, value in model.state_dict().items()}
        before = copy.deepcopy(model.state_dict())
        output = torch.func.functional_call(model, state, input)
        assert_same(model.state_dict(), before)
        states.append({"output": output.detach(), **state})
    assert_same(*states)


# ---- the profiler ----------------------------------------------------------------------------------------------------

EVENTS = {
    "discriminator": {"conv_bn_act/forward", "conv_bn_act/backward_wgrad"},
    "generator": {"conv_transpose_bn_act/forward", "conv_transpose_bn_act/backward_wgrad"},
    "batch_norm": {"batch_norm_act/statistics", "batch_norm_act/forward", "batch_norm_act/backward"},
    "block": {"conv_bn_act/forward", "conv_bn_act/backward_wgrad"},
}


@every_model
def test_profiler_names_the_kernels(name):
    ours, _, input = twins(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours(input.requires_grad_()).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"fastgan::_run", "fastgan::_run_backward"} <= names
    assert all(any(known.startswith(event) for known in names) for event in EVENTS[name]), names


def test_profiler_names_the_losses():
    probabilities = torch.rand(4).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        nn.BCELoss()(probabilities, torch.ones(4)).backward()
    assert {"fastgan::_bce", "fastgan::_bce_backward"} <= {event.key for event in profile.key_averages()}
