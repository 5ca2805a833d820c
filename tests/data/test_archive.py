"""Zip files of images: what is found in them, with which labels, and what is said about what cannot be read."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import data
from fastgan.data import archive
from fastgan.errors import FastganWarning, UserError


def encoded(colour, size=(12, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "png")
    return file.getvalue()


def make(path, members):
    with zipfile.ZipFile(path, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def test_reads_what_a_folder_of_the_same_files_gives(tmp_path):
    members = {f"{place}.png": encoded((level, 0, level)) for place, level in [("b/z", 40), ("a/b/y", 10), ("a/x", 30)]}
    path = make(tmp_path / "photos.zip", {**members, "notes.txt": b"no image"})
    with zipfile.ZipFile(path) as source:
        source.extractall(tmp_path / "photos")
    zipped, folder = data.load(path, image_size=(6, 10)), data.load(tmp_path / "photos", image_size=(6, 10))
    assert torch.equal(zipped.images, folder.images) and torch.equal(zipped.labels, folder.labels)
    assert zipped.classes == ("a", "b") and zipped.labels.tolist() == [0, 0, 1]
    assert (zipped.name, zipped.source, zipped.image_size) == ("photos", str(path), (6, 10))


def test_the_folder_that_all_share_is_no_class_and_hidden_files_are_no_images(tmp_path):
    shared = {f"photos/all/{name}.png": encoded("red") for name in ("cat/1", "dog/1", "dog/2")}
    hidden = {name: encoded("red") for name in ("__MACOSX/photos/all/cat/1.png", "photos/.thumbnails/1.png", "._1.png")}
    images = data.load(make(tmp_path / "a.zip", {**shared, **hidden, "photos/all/": b""}))
    assert len(images) == 3 and images.classes == ("cat", "dog") and images.labels.tolist() == [0, 1, 1]
    assert data.load(make(tmp_path / "one.zip", {"photos/cat/1.png": encoded("red")})).labels is None


def test_damaged_members_are_named_and_skipped(tmp_path, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    file = io.BytesIO()
    noise.save(file, "png")
    members = {"a/good.png": encoded((10, 20, 30)), "b/cut.png": file.getvalue()[:1500], "b/text.png": b"no picture"}
    members |= {
        "b/huge.png": encoded("red") + bytes(5000),
        "b/rotten.png": encoded("blue"),
        "b/good.png": encoded("red"),
    }
    path = make(tmp_path / "a.zip", members)
    content = path.read_bytes()
    path.write_bytes(content.replace(encoded("blue"), encoded("blue")[:-30] + bytes(30)))  # its CRC-32 is another now
    monkeypatch.setattr(archive, "LARGEST", 5000)
    with pytest.warns(FastganWarning) as caught:
        images = data.load(path, image_size=8)
    text = str(caught[0].message)
    assert len(caught) == 1 and [name for name, _ in images.skipped] == [
        "b/cut.png", "b/huge.png", "b/rotten.png", "b/text.png"
    ]  # fmt: skip
    assert "truncated" in text and "where at most 5,000 are read" in text and "Bad CRC-32" in text
    assert images.images[:, :, 4, 4].tolist() == [[10, 20, 30], [255, 0, 0]] and images.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"notes.txt": b"text"}, r"a\.zip holds 1 entry, none of them an image; give one with files ending in \.png"),
        ({}, "holds 0 entries"),
        ({"a.png": b"no picture"}, r"none of the 1 image files in .*a\.png \(not an image"),
        (b"PK\x03\x04 and no more", r"the zip file .*a\.zip cannot be read \(File is not a zip file\); fetch"),
    ],
)
def test_zips_without_images_are_a_sentence(tmp_path, content, words):
    path = tmp_path / "a.zip"
    path.write_bytes(content) if isinstance(content, bytes) else make(path, content)
    with pytest.raises(UserError, match=words) as error:
        data.load(path)
    assert "\n" not in str(error.value)
