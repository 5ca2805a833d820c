"""The explicit blocks and the loss modules."""

from __future__ import annotations

import pytest
import torch
from cases import relative_error

import fastgan.layers as nn
from fastgan import _native
from fastgan.errors import UserError

ACTIVATIONS = {
    "none": torch.nn.Identity(),
    "relu": torch.nn.ReLU(),
    "leaky_relu": torch.nn.LeakyReLU(0.3),
    "tanh": torch.nn.Tanh(),
    "sigmoid": torch.nn.Sigmoid(),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_block_is_its_modules_one_after_another(transposed, activation):
    block_type = nn.ConvTransposeBNAct2d if transposed else nn.ConvBNAct2d
    block = block_type(4, 6, 4, 2, 1, activation=activation, negative_slope=0.3, dtype=torch.float64)
    assert list(block.state_dict())[:3] == ["conv.weight", "bn.weight", "bn.bias"]
    plain = torch.nn.Sequential(block.conv, block.bn, ACTIVATIONS[activation])
    for train in (True, False):
        block.train(train)
        x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
        _native.reset_counters()
        found = block(x)
        assert any(name.startswith("batch_norm_act/forward") for name in _native.counters())
        assert relative_error(found, plain(x)) < 1e-10


def test_options_reach_the_convolution_and_the_norm():
    block = nn.ConvBNAct2d(
        4, 6, 3, 1, 1, 1, 2, True, "reflect", eps=1e-3, momentum=None, affine=False, track_running_stats=False
    )
    assert (block.conv.groups, block.conv.padding_mode, block.bn.eps, block.bn.affine) == (2, "reflect", 1e-3, False)
    assert block.bias is block.conv.bias
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.nn.functional.leaky_relu(block.bn(block.conv(x)), 0.2))


def test_hooked_children_fire():
    block, fired = nn.ConvBNAct2d(3, 4, 3), []
    block.bn.register_forward_hook(lambda *_: fired.append("bn"))
    block(torch.randn(2, 3, 5, 5))
    assert fired == ["bn"]


def test_unknown_activation():
    with pytest.raises(UserError, match="activation='swish' is unknown; choose one of"):
        nn.ConvBNAct2d(3, 4, 3, activation="swish")


@pytest.mark.parametrize("name", ["BCELoss", "BCEWithLogitsLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_torchs(name, reduction):
    input, target = torch.rand(8), torch.rand(8).round()
    weight = torch.rand(8)
    losses = [getattr(module, name)(weight=weight, reduction=reduction) for module in (nn, torch.nn)]
    torch.testing.assert_close(losses[0](input, target), losses[1](input, target))
    with pytest.raises(ValueError, match="target"):
        losses[0](input, target[:4])


def test_bce_loss_works_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.BCELoss()(torch.full((4,), 0.5, dtype=torch.bfloat16), torch.ones(4, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert abs(loss.item() - 0.6931) < 1e-3
