"""``import fastgan.layers as nn`` answers as ``torch.nn`` does."""

from __future__ import annotations

import importlib
import pickle

import pytest
import torch

import fastgan.layers as nn


def test_every_name_of_torch_nn_is_there():
    missing = [name for name in dir(torch.nn) if not name.startswith("_") and not hasattr(nn, name)]
    assert missing == []
    assert set(dir(torch.nn)) <= set(dir(nn))


def test_own_classes_are_subclasses():
    own = {name: kind for name in nn.__all__ if (kind := getattr(nn, name)) is not getattr(torch.nn, name, None)}
    assert {"Sequential", "Conv2d", "ConvBNAct2d", "BCELoss"} <= own.keys()
    for name, kind in own.items():
        assert issubclass(kind, getattr(torch.nn, name, torch.nn.Module))


def test_a_star_import_brings_every_name():
    names: dict = {}
    exec("from fastgan.layers import *", names)
    assert names["Linear"] is torch.nn.Linear and names["Conv2d"] is nn.Conv2d


@pytest.mark.parametrize("name", ["functional", "init", "utils", "parameter"])
def test_submodules_are_torchs(name):
    assert importlib.import_module(f"fastgan.layers.{name}") is getattr(torch.nn, name)
    assert getattr(nn, name) is getattr(torch.nn, name)


@pytest.mark.parametrize(
    "name",
    ["modules.conv", "utils.parametrizations", "utils.parametrize", "parallel", "parameter", "modules", "utils.prune"],
)
def test_imports_of_submodules_find_torchs_and_no_second_copy(name):
    assert importlib.import_module(f"fastgan.layers.{name}") is importlib.import_module(f"torch.nn.{name}")


def test_dir_lists_what_torch_nn_lists():
    assert set(dir(torch.nn)) <= set(dir(nn))
    assert {"ConvBNAct2d", "ConvTransposeBNAct2d"} <= set(dir(nn))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"neither fastgan\.layers nor torch\.nn has 'Conv5d'"):
        nn.Conv5d  # noqa: B018


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Conv2d", (3, 8, 4, 2, 1)),
        ("ConvTranspose2d", (3, 8, 4, 2, 1)),
        ("BatchNorm2d", (8,)),
        ("LeakyReLU", (0.2, True)),
        ("ReLU", (True,)),
        ("BCELoss", ()),
        ("BCEWithLogitsLoss", ()),
    ],
)
def test_same_repr_and_state_as_torchs(name, arguments):
    ours, torchs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    assert repr(ours) == repr(torchs)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert repr(pickle.loads(pickle.dumps(ours))) == repr(ours)


def test_weights_init_of_the_tutorial_reaches_the_explicit_blocks():
    def weights_init(m):
        name = m.__class__.__name__
        if name.find("Conv") != -1:
            nn.init.normal_(m.weight.data, 0.0, 0.02)
        elif name.find("BatchNorm") != -1:
            nn.init.normal_(m.weight.data, 1.0, 0.02)
            nn.init.constant_(m.bias.data, 0)

    block = nn.ConvBNAct2d(64, 128, 4, 2, 1).apply(weights_init)
    assert 0.019 < block.conv.weight.std() < 0.021
    assert 0.95 < block.bn.weight.mean() < 1.05
    assert block.bias is None
