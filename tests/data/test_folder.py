"""Folders of images: what is found, in which order, with which labels, and what is said about what cannot be read."""

import os
import re
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import data
from fastgan.errors import FastganWarning, UserError


def save(path, colour, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture
def strict_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("strict_warnings")
def test_reads_recursively_in_the_order_of_the_relative_paths(tmp_path):
    for place, level in [("b/z.png", 40), ("a.JPG", 10), ("b/c/d.webp", 30), ("e.gif", 50), ("b-/x.bmp", 70)]:
        save(tmp_path / place, (level, 0, level))
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / ".thumbnails/t.png", "red")
    (tmp_path / "._a.JPG").write_bytes(b"a Mac's shadow file")
    images = data.load(tmp_path)
    # By path components: folder b comes before folder b-.
    assert images.images[:, 0, 32, 32].tolist() == pytest.approx([10, 30, 40, 70, 50], abs=3)
    assert (len(images), images.channels, images.image_size) == (5, 3, (64, 64))
    assert (images.name, images.source, images.skipped) == (tmp_path.name, str(tmp_path), ())


def test_sizes_are_height_first(tmp_path):
    save(tmp_path / "a.png", "red")
    images = data.load(str(tmp_path), image_size=(16, 48))
    assert images.image_size == (16, 48) and images.images.shape == (1, 3, 16, 48)
    assert images.batch([0]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("colours", "channels", "expected"),
    [
        ([(9, 9, 9), (200, 200, 200)], "auto", 1),
        ([(9, 9, 9), (200, 200, 201)], "auto", 3),
        ([(9, 9, 9), (200, 10, 20)], 1, 1),
        ([(9, 9, 9)], 3, 3),
        ([(9, 9, 9)], 4, 4),
    ],
)
def test_channels(tmp_path, colours, channels, expected):
    for number, colour in enumerate(colours):
        save(tmp_path / f"{number}.png", colour)
    images = data.load(tmp_path, channels=channels, image_size=4)
    assert images.channels == expected
    assert images.images[0].unique().tolist() == ([9] if expected != 4 else [9, 255])


def test_subfolders_are_classes(tmp_path):
    for place in ("dog/1.png", "cat/1.png", "cat/deep/2.png"):
        save(tmp_path / place, "red")
    images = data.load(tmp_path)
    assert images.classes == ("cat", "dog") and images.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("places", [("only/1.png", "only/2.png"), ("a/1.png", "b/1.png", "3.png"), ("1.png",)])
def test_no_classes_without_two_folders_or_with_images_outside(tmp_path, places):
    for place in places:
        save(tmp_path / place, "red")
    images = data.load(tmp_path)
    assert images.labels is None and images.classes == ()


def test_one_warning_names_every_file_that_cannot_be_read(tmp_path):
    for place in ("cat/good.png", "dog/good.png"):
        save(tmp_path / place, "red")
    truncated(tmp_path / "cat" / "cut.png")
    truncated(tmp_path / "dog" / "cut.jpg")
    (tmp_path / "dog" / "text.png").write_text("I am not a picture")
    (tmp_path / "empty.gif").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(FastganWarning) as caught:
        images = data.load(tmp_path, image_size=8)
    assert len(caught) == 1
    text = str(caught[0].message)
    for name in ("cat/cut.png", "dog/cut.jpg", "dog/text.png", "empty.gif", "gone.png"):
        assert text.count(name) == 1
    assert "truncated" in text and "not an image" in text and "No such file" in text
    assert len(images) == 2 and images.labels.tolist() == [0, 1]
    assert {file for file, _ in images.skipped} == {
        "cat/cut.png", "dog/cut.jpg", "dog/text.png", "empty.gif", "gone.png"
    }  # fmt: skip
    assert (images.images[:, 0] == 255).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_left_out_with_the_reason(tmp_path, monkeypatch):
    save(tmp_path / "good.png", "red", (10, 10))
    save(tmp_path / "bomb.png", "red", (40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.warns(FastganWarning, match=r"bomb\.png.*1600 pixels.*decompression bomb"):
        assert len(data.load(tmp_path)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    save(tmp_path / "good.png", "red")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(FastganWarning, match=r"pipe\.png \(not a regular file\)"):
        assert len(data.load(tmp_path)) == 1


def test_a_mixed_folder(tmp_path):
    Image.new("RGB", (30, 60), "red").save(tmp_path / "1 portrait.jpg", quality=95)
    Image.new("RGB", (60, 30), "lime").save(tmp_path / "2 landscape.png")
    Image.new("L", (40, 40), 90).save(tmp_path / "3 grey.png")
    Image.new("RGBA", (40, 40), (0, 0, 255, 0)).save(tmp_path / "4 clear.png")
    Image.new("RGB", (40, 40), "blue").quantize(4).save(tmp_path / "5 palette.gif")
    truncated(tmp_path / "6 corrupt.png")
    with pytest.warns(FastganWarning, match=r"6 corrupt\.png") as caught:
        images = data.load(tmp_path, image_size=(48, 64))
    assert len(caught) == 1 and images.images.shape == (5, 3, 48, 64)
    centre = torch.tensor([[255, 0, 0], [0, 255, 0], [90, 90, 90], [255, 255, 255], [0, 0, 255]])
    assert (images.images[:, :, 24, 32] - centre).abs().max() <= 2  # within what JPEG changes


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "1.png", "red")
    folder = tmp_path / "folder"
    save(folder / "2.png", "red")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert len(data.load(folder)) == 2


@pytest.mark.parametrize("broken", [1, 5])
def test_a_folder_of_damaged_files_only_is_an_error(tmp_path, broken):
    for number in range(broken):
        truncated(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=rf"none of the {broken} image files in .*0\.png \(.*truncated"):
        data.load(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a.png/b"])
def test_a_path_that_cannot_be_opened_is_not_found(tmp_path, name):
    save(tmp_path / "a.png", "red")
    with pytest.raises(data.DataNotFound, match=r"cannot be opened \(.+\); give a folder"):
        data.load(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as a name")
def test_names_that_are_no_text_can_be_printed(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    Image.new("RGB", (8, 8), "red").save(folder + b"/good\xfe.png", "png")
    with open(folder + b"/bad\xfe.png", "wb") as file:
        file.write(b"no image")
    with pytest.warns(FastganWarning, match=r"bad\\xfe\.png") as caught:
        images = data.load(os.fsdecode(folder))
    assert len(images) == 1 and images.skipped[0][0] == r"bad\xfe.png"
    f"{caught[0].message} {images!r} {images.name} {images.source}".encode()  # raises where there is a lone surrogate


@pytest.mark.parametrize("side", [10**8, 10**12])
def test_more_pixels_than_memory_is_a_sentence(tmp_path, side):
    save(tmp_path / "a.png", "red")
    for spec in (tmp_path, "digits"):
        with pytest.raises(UserError, match=rf"{side}x{side}.*GiB of memory, more than there is; give a smaller"):
            data.load(spec, image_size=side)


def test_an_interrupt_does_not_wait_for_the_other_files(tmp_path, monkeypatch):
    for number in range(50):
        save(tmp_path / f"{number}.png", "red")
    decoded = []

    def slowly(path, image_size, channels, resize):
        decoded.append(path)
        time.sleep(0.01)
        return np.zeros((*image_size, channels), np.uint8)

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastgan.data.folder.read_image", slowly)
    with pytest.raises(KeyboardInterrupt):
        data.load(tmp_path, workers=1, progress=interrupt)
    assert len(decoded) < 10


def test_missing_and_empty_folders_are_not_found(tmp_path):
    sentence = r"^/.*/nowhere does not exist; give a folder, .*hf:NAME, or 'digits' or 'emoji'"
    with pytest.raises(FileNotFoundError, match=sentence) as missing:
        data.load(tmp_path / "nowhere")
    assert isinstance(missing.value, (data.DataNotFound, UserError))
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DataNotFound, match=r"empty holds no files; .*\.png, \.jpg"):
        data.load(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(data.DataNotFound, match="holds 1 file, none of them an image"):
        data.load(tmp_path / "empty")


def test_a_file_is_not_a_folder(tmp_path):
    save(tmp_path / "a.png", "red")
    with pytest.raises(UserError, match=r"a\.png is not an intact .*, or give the folder of the images"):
        data.load(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TGZ"])
def test_a_tar_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match=rf"{name} is a tar file, which is not read; unpack it"):
        data.load(tmp_path / name)


def test_a_subfolder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png", "red")
    save(tmp_path / "locked" / "b.png", "red")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(FastganWarning, match=r"locked \(Permission denied\)"):
        assert len(data.load(tmp_path)) == 1


def test_threads_and_progress_do_not_change_the_result(tmp_path):
    for number in range(30):
        save(tmp_path / f"{number:02}.png", (number, 2 * number, 3 * number))
    calls = []
    one = data.load(tmp_path, image_size=8, workers=1, progress=lambda *call: calls.append(call))
    many = data.load(tmp_path, image_size=8, workers=7)
    assert torch.equal(one.images, many.images)
    assert calls == [(done, 30) for done in range(1, 31)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 0}, "image_size.*0"),
        ({"image_size": (64,)}, re.escape("image_size must be a positive whole number or (height, width)")),
        ({"image_size": 64.0}, r"image_size.*64\.0"),
        ({"image_size": "64"}, "image_size.*'64'"),
        ({"channels": 2}, "channels must be 'auto', 1, 3 or 4, but it is 2"),
        ({"resize": "zoom"}, "resize must be one of crop, pad, stretch, but it is 'zoom'"),
        ({"workers": 0}, "workers must be at least 1, but it is 0"),
        ({"workers": "many"}, "workers must be at least 1, but it is 'many'"),
        ({"spec": ""}, "data must be 'digits' or the path of a folder, but it is empty"),
        ({"spec": "https://example.com/a.zip"}, "data is https://example.com/a.zip, but addresses are not fetched;"),
        ({"spec": 7}, "data must be 'digits' or the path of a folder, but it is a int"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(UserError, match=words) as error:
        data.load(**arguments)
    assert "\n" not in str(error.value)
