"""PyTorch's own module database over the classes that fastgan replaces: its constructor arguments and its inputs."""

from __future__ import annotations

import copy
import importlib
from unittest import mock

import pytest
import torch
from cases import TOLERANCE, relative_error
from torch import Tensor

import fastgan.layers as nn

MODULES = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "LeakyReLU", "ReLU"]
LOSSES = ["BCELoss", "BCEWithLogitsLoss"]
# How ours and torch's are run.
WRAPPINGS = {
    "alone": lambda ours, theirs: (ours, theirs),
    "sequential": lambda ours, theirs: (nn.Sequential(ours), torch.nn.Sequential(theirs)),
    "sequential_of_torchs": lambda _, theirs: (nn.Sequential(copy.deepcopy(theirs)), torch.nn.Sequential(theirs)),
}


@pytest.fixture(scope="module")
def module_infos():
    """The database's entries by class."""
    pytest.importorskip("expecttest", reason="torch.testing._internal needs it: pip install expecttest")
    # It forbids every later test of this process to set torch.backends' flags.
    with mock.patch.object(torch.backends, "disable_global_flags"):
        database = importlib.import_module("torch.testing._internal.common_modules")
    return {info.module_cls: info for info in database.module_db}


def inputs_of(info, dtype: torch.dtype, training: bool, error: bool = False) -> list:
    """The database's inputs, the same on every call."""
    torch.manual_seed(0)
    function = info.module_error_inputs_func if error else info.module_inputs_func
    return function(info, device="cpu", dtype=dtype, requires_grad=False, training=training)


def build(name: str, sample, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and torch's, with the same state."""
    arguments = sample.constructor_input
    ours, theirs = (getattr(space, name)(*arguments.args, **arguments.kwargs).to(dtype) for space in (nn, torch.nn))
    if isinstance(theirs, torch.nn.BatchNorm2d):  # weights of 1 and biases of 0 hide errors
        for tensor in (theirs.weight, theirs.bias):
            if tensor is not None:
                torch.nn.init.normal_(tensor)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(module: torch.nn.Module, arguments: list[Tensor], differentiable: int) -> dict[str, Tensor | None]:
    """Output, gradients and second gradients; of the arguments, the first few have gradients."""
    leaves = [a.detach().requires_grad_() if i < differentiable else a for i, a in enumerate(arguments)]
    output = module(*leaves)
    wanted = [*leaves[:differentiable], *module.parameters()]
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    grads = torch.autograd.grad(output, wanted, cotangent, retain_graph=True)
    again = torch.autograd.grad(output, wanted, cotangent, create_graph=True)
    seconds = [None] * len(wanted)
    if any(g.requires_grad for g in again):
        seconds = torch.autograd.grad(sum(g.square().sum() for g in again), wanted, allow_unused=True)
    named = {"output": output.detach()}
    for kind, values in {"grad": grads, "grad_graph": again, "second": seconds}.items():
        named |= {f"{kind}_{i}": value for i, value in enumerate(values)}
    return named


def assert_same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], dtype: torch.dtype) -> None:
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        value = found[name]
        if value is None or truth is None:  # a second gradient of zero has two forms
            other = truth if value is None else value
            assert other is None or not other.any(), name
            continue
        assert (value.dtype, value.shape) == (truth.dtype, truth.shape), name
        assert relative_error(value, truth) <= TOLERANCE[dtype], name


def formats_of(arguments: list[Tensor]):
    """The arguments in each memory format."""
    yield arguments
    if arguments[0].dim() == 4:
        yield [arguments[0].contiguous(memory_format=torch.channels_last), *arguments[1:]]


def check(ours, theirs, arguments: list[Tensor], dtype: torch.dtype, differentiable: int) -> None:
    for each in formats_of(arguments):
        found, expected = run(ours, each, differentiable), run(theirs, each, differentiable)
        assert_same(found, expected, dtype)
        output, truth = found["output"], expected["output"]
        if output.numel():
            strides = [
                [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1] for t in (output, truth)
            ]
            assert strides[0] == strides[1]
        states = [dict(module.state_dict()) for module in (ours, theirs)]
        assert list(states[0]) == list(states[1])
        assert_same(*states, dtype)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, dtype, wrapping, module_infos):
    info = module_infos[getattr(torch.nn, name)]
    for sample in inputs_of(info, dtype, training=True):
        ours, theirs = build(name, sample, dtype)
        assert repr(ours) == repr(theirs)
        ours, theirs = WRAPPINGS[wrapping](ours, theirs)
        for training in (True, False):
            ours.train(training), theirs.train(training)
            check(ours, theirs, list(sample.forward_input.args), dtype, differentiable=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, dtype, module_infos):
    info = module_infos[getattr(torch.nn, name)]
    for sample in inputs_of(info, dtype, training=True):
        ours, theirs = build(name, sample, dtype)
        assert repr(ours) == repr(theirs)
        for differentiable in (1, 2):  # the target too
            check(ours, theirs, list(sample.forward_input.args), dtype, differentiable)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_errors(wrapping, module_infos):
    names = [n for n in MODULES + LOSSES if module_infos[getattr(torch.nn, n)].module_error_inputs_func is not None]
    assert names == ["BatchNorm2d"]  # of the others the database knows no errors
    for wrong in inputs_of(module_infos[torch.nn.BatchNorm2d], torch.float64, training=True, error=True):
        sample = wrong.module_error_input
        for module in reversed(WRAPPINGS[wrapping](*build("BatchNorm2d", sample, torch.float64))):
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                module(*sample.forward_input.args)
