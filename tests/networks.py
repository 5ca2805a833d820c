"""Small networks on ``fastgan.layers``, each with its twin on ``torch.nn``, and what a pass leaves behind."""

from __future__ import annotations

import copy

import torch
from cases import relative_error

import fastgan.layers as nn

D = torch.float64


def discriminator(nn):
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 1, 4),
        nn.Sigmoid(),
    )


def generator(nn):
    return nn.Sequential(
        nn.ConvTranspose2d(5, 8, 4, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(True),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.Tanh(),
    )


def batch_norm(nn):
    return nn.BatchNorm2d(3)


class PlainBlock(torch.nn.Module):
    """``ConvBNAct2d`` as torch's users write it."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)

    def forward(self, input):
        return torch.nn.functional.leaky_relu(self.bn(self.conv(input)), 0.2)


def block(nn):
    return PlainBlock() if nn is torch.nn else nn.ConvBNAct2d(3, 4, 3)


MODELS = {
    "discriminator": (discriminator, (4, 3, 16, 16)),
    "generator": (generator, (4, 5, 1, 1)),
    "batch_norm": (batch_norm, (4, 3, 5, 6)),
    "block": (block, (4, 3, 8, 7)),
}
SEQUENTIALS = ["discriminator", "generator"]


def twins(name: str, dtype: torch.dtype = D, train: bool = True):
    """Ours, torch's with the same state, and an input."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    theirs = make(torch.nn)
    for key, buffer in theirs.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    ours = make(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours.to(dtype).train(train), theirs.to(dtype).train(train), torch.randn(shape, dtype=D).to(dtype)


def differentiate(model, input, call=None) -> dict[str, torch.Tensor]:
    """Output, gradients and state after a backward."""
    model.zero_grad()
    leaf = input.detach().clone().requires_grad_()
    output = model(leaf) if call is None else call(model, leaf)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    output.backward(cotangent.to(output.dtype))
    grads = {f"{key}.grad": p.grad for key, p in model.named_parameters()}
    return {"output": output.detach(), "input.grad": leaf.grad, **grads, **copy.deepcopy(model.state_dict())}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for key, value in found.items():
        truth = expected[key]
        assert (value.dtype, value.shape) == (truth.dtype, truth.shape), key
        assert relative_error(value, truth) <= tolerance, key


def assert_as_close(found, expected, truth) -> None:
    """Dtypes as torch's, and an error of all tensors together that is about torch's own; one alone is luck."""
    assert found.keys() == expected.keys()
    errors = []
    for values in (found, expected):
        assert all(value.dtype == expected[key].dtype for key, value in values.items())
        errors.append(sum(relative_error(value, truth[key]) ** 2 for key, value in values.items()) ** 0.5)
    assert errors[0] <= 1.5 * errors[1] + 1e-5
