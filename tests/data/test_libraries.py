"""Datasets of torchvision and Hugging Face, by stand-ins that have their interface, and without them."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from fastgan import data
from fastgan.errors import FastganWarning, UserError


class Pets:
    """As a dataset of torchvision: 6 images, each with a class; one cannot be read."""

    classes = ("cat", "dog")

    def __init__(self, root, download):
        self.root, self.download, self.targets = root, download, torch.tensor([0, 1] * 3)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise OSError("a broken file")
        return Image.new("RGB", (30, 20), (40 * index, 0, 9)), int(self.targets[index])


class Ask(Pets):
    def __init__(self, root, download):
        raise RuntimeError("the files are\nnot there")


@pytest.fixture
def torchvision(monkeypatch):
    datasets = ModuleType("torchvision.datasets")
    datasets.Pets, datasets.Ask = Pets, Ask
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return datasets


class Table(list):
    """As a dataset of Hugging Face: rows by number, columns by name."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture
def hugging_face(monkeypatch):
    Feature = {name: type(name, (), {"names": ["a", "b"]}) for name in ("Image", "ClassLabel", "Value")}
    rows = [{"img": Image.new("RGB", (8, 8), (index, 0, 9)), "kind": index % 2} for index in range(4)]

    def load_dataset(name, split):
        assert split == "train"
        table = Table(rows)
        table.features = {"img": Feature["Value" if name == "texts" else "Image"](), "kind": Feature["ClassLabel"]()}
        if name == "bare":
            table.features.pop("kind")
        return table

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_torchvision(torchvision):
    with pytest.warns(FastganWarning, match=r"image 4 \(a broken file\)"):
        images = data.load("torchvision:Pets", image_size=(8, 12))
    assert images.images.shape == (5, 3, 8, 12) and images.images[:, 0, 4, 6].tolist() == [0, 40, 80, 120, 200]
    assert images.labels.tolist() == [0, 1, 0, 1, 1] and images.classes == ("cat", "dog")
    assert (images.name, images.source) == ("pets", "torchvision:Pets")


def test_targets_that_are_no_classes_are_left_out(torchvision, monkeypatch):
    monkeypatch.setattr(torchvision.Pets, "__getitem__", lambda self, index: Image.new("L", (8, 8), index))
    monkeypatch.setattr(
        torchvision.Pets, "targets", property(lambda self: [(0, 1)] * 6, lambda self, value: None), raising=False
    )
    images = data.load("torchvision:Pets")
    assert images.labels is None and images.channels == 1 and images.image_size == (64, 64)


def test_hugging_face(hugging_face):
    images = data.load("hf:someone/pets", image_size=8)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and images.labels.tolist() == [0, 1, 0, 1]
    assert images.classes == ("a", "b") and images.name == "pets"
    assert data.load("hf:bare").labels is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:Cars", "torchvision has no dataset 'Cars'; give one of torchvision.datasets, such as MNIST"),
        ("torchvision:Ask", r"cannot be loaded \(the files are not there\); check the name and the network"),
        ("hf:texts", "hf:texts has the columns img, kind, none of which holds images"),
    ],
)
@pytest.mark.usefixtures("torchvision", "hugging_face")
def test_other_names_are_one_sentence(spec, words):
    with pytest.raises(UserError, match=words):
        data.load(spec)


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [("torchvision:MNIST", "torchvision.datasets", "torchvision"), ("hf:mnist", "datasets", "datasets")],
)
def test_without_the_library_the_sentence_says_how_to_get_it(monkeypatch, spec, module, package):
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    with pytest.raises(
        UserError, match=f"data is {spec}, which needs {package} .*install it by `pip install {package}`"
    ):
        data.load(spec)
