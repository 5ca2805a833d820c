"""The embedded emoji: what they are, and how other sizes and channels come out of them."""

import pytest
import torch

from fastgan import data
from fastgan.data.emoji import ASSET


def test_are_1871_images_in_colour_on_white():
    emoji = data.load("emoji")
    assert emoji.images.shape == (1871, 3, 64, 64) and emoji.images.dtype == torch.uint8
    assert (emoji.name, emoji.labels, emoji.classes) == ("emoji", None, ())
    corners = emoji.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].float()
    assert corners.mean() > 250  # flags reach to the edge
    spread = emoji.images.flatten(1).float().std(1)
    assert spread.min() > 5  # none is an empty square of the atlas
    colour = (emoji.images.amax(1).int() - emoji.images.amin(1).int()).flatten(1).amax(1)
    assert (colour > 60).float().mean() > 0.85
    assert len(torch.unique(emoji.images.flatten(1), dim=0)) >= 1870  # the package has one of them twice


def test_are_small_and_documented():
    assert ASSET.stat().st_size < 2_100_000
    origin = (ASSET.parent / "README.md").read_text()
    assert all(word in origin for word in ("@lobehub/fluent-emoji-3d", "1.1.0", "Microsoft", "1f3fb", "MIT"))
    licence = (ASSET.parent / "LICENSE-fluent-emoji.txt").read_text()
    assert "Permission is hereby granted" in licence and "Microsoft" in licence and "LobeHub" in licence


def test_other_sizes_keep_the_picture_and_pad_with_white():
    emoji, small = data.load("emoji"), data.load("emoji", image_size=16)
    assert torch.allclose(emoji.images.double().mean((2, 3)), small.images.double().mean((2, 3)), atol=4)
    wide = data.load("emoji", image_size=(16, 24), resize="pad", channels=4)
    assert wide.images.shape == (1871, 4, 16, 24) and (wide.images[..., :4] == 255).all()
    assert data.load("emoji", image_size=16, channels=1).channels == 1


@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_a_folder_of_the_same_name_needs_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert data.load(name).name == name
    with pytest.raises(data.DataNotFound, match="holds no files"):
        data.load(f"./{name}")
