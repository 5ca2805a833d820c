"""Optimizers step on contiguous views of channels-last parameters, and nobody else sees them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from fastgan.training._memory_order import in_memory_order

SHAPE = (64, 32, 4, 4)  # from _LARGE elements on


def parameter(format: torch.memory_format = torch.channels_last) -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(SHAPE).to(memory_format=format))


def gradient(parameter: torch.nn.Parameter, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty_like(parameter).copy_(torch.randn(SHAPE, generator=generator))


def stepped(make, ordered: bool, steps: int = 3) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = parameter()
    optimizer = make([weight])
    for seed in range(steps):
        weight.grad = gradient(weight, seed)
        if ordered:
            with in_memory_order(optimizer):
                optimizer.step()
        else:
            optimizer.step()
    return weight, optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Adam(p, fused=True),
        lambda p: Adam(p, amsgrad=True, weight_decay=0.1),
        lambda p: AdamW(p, fused=True),
        lambda p: SGD(p, 0.1, momentum=0.9, fused=True),
    ],
    ids=["adam", "amsgrad", "adamw", "sgd"],
)
def test_computes_the_same_and_leaves_every_tensor_as_it_was(make):
    (weight, optimizer), (expected, reference) = stepped(make, True), stepped(make, False)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)
    assert weight.shape == SHAPE and weight.stride() == expected.stride()
    assert weight.grad.shape == SHAPE and weight.grad.stride() == expected.grad.stride()
    for name, value in reference.state[expected].items():
        found = optimizer.state[weight][name]
        assert found.shape == value.shape and found.stride() == value.stride(), name
        torch.testing.assert_close(found, value, rtol=0, atol=1e-7)
    # What was saved before goes on in either way.
    copied = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(copied)
    weight.grad = gradient(weight, 9)
    with in_memory_order(optimizer):
        optimizer.step()


def test_torch_copies_no_gradient_inside():
    weight = parameter()
    optimizer = Adam([weight], fused=True)
    weight.grad = gradient(weight, 0)
    with torch.profiler.profile() as profile, in_memory_order(optimizer):
        optimizer.step()
    assert "aten::clone" not in {event.key for event in profile.key_averages()}


def test_a_failing_step_leaves_every_tensor_as_it_was():
    weight = parameter()
    optimizer = Adam([weight], fused=True)
    weight.grad = gradient(weight, 0)
    stride = weight.stride()
    with pytest.raises(RuntimeError, match="stopped"), in_memory_order(optimizer):
        assert weight.is_contiguous()
        raise RuntimeError("stopped")
    assert weight.shape == SHAPE and weight.stride() == stride and weight.grad.stride() == stride


class Watched(Adam):
    pass


def hooked(parameters):
    optimizer = Adam(parameters)
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize("make", [Watched, hooked], ids=["subclass", "hook"])
def test_whoever_looks_sees_channels_last(make):
    weight = parameter()
    optimizer = make([weight])
    weight.grad = gradient(weight, 0)
    with in_memory_order(optimizer):
        assert weight.shape == SHAPE and not weight.is_contiguous()


@pytest.mark.parametrize("case", ["contiguous", "no gradient", "another format", "small"])
def test_other_parameters_are_left_alone(case):
    weight = parameter(torch.contiguous_format if case == "contiguous" else torch.channels_last)
    if case == "small":
        weight = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    if case != "no gradient":
        weight.grad = torch.ones_like(weight)
    if case == "another format":
        weight.grad = weight.grad.contiguous()
    before = weight.shape, weight.stride()
    with in_memory_order(Adam([weight])):
        assert (weight.shape, weight.stride()) == before
