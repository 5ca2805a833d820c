"""Packed sets: what is in them, how they go on after a kill or a full disk, and what is said of damaged ones."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import data
from fastgan.data import packed
from fastgan.errors import FastganWarning, UserError

MODULE = sys.modules["fastgan.data.pack"]  # which `fastgan.data.pack`, the function, hides


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 images in two classes, each of another colour and size."""
    folder = tmp_path / "photos"
    for index in range(20):
        path = folder / ("even" if index % 2 == 0 else "odd") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (10 + index, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 4 images of 8x8."""
    monkeypatch.setattr(MODULE, "BLOCK", 4 * 8 * 8 * 3)


def same(left, right):
    assert torch.equal(left.images, right.images)
    assert (left.labels is None) == (right.labels is None)
    assert left.labels is None or torch.equal(left.labels, right.labels)
    assert (left.classes, left.skipped, left.name) == (right.classes, right.skipped, right.name)


def manifest(folder):
    return json.loads((folder / packed.MANIFEST).read_text())


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_pack_is_what_loading_gives_and_is_mapped(photos, tmp_path, resize):
    folder = data.pack(photos, tmp_path / "a", image_size=(8, 6), resize=resize, workers=3)
    images = data.load(folder)
    same(images, data.load(photos, image_size=(8, 6), resize=resize))
    assert images.mapping is not None and images.classes == ("even", "odd") and images.source == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [packed.MANIFEST, packed.PIXELS]
    facts = manifest(folder)
    assert (facts["format"], facts["version"], facts["count"], facts["image_size"]) == ("fastgan pack", 1, 20, [8, 6])
    assert facts["files"][:2] == ["even/00.png", "even/02.png"] and facts["source"] == str(photos)
    raw = np.fromfile(folder / packed.PIXELS, np.uint8).reshape(20, 8, 6, 3)
    assert np.array_equal(raw, images.images.permute(0, 2, 3, 1).numpy())


def test_the_default_name_and_size(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.pack("photos") == Path("photos-64x64.pack")
    assert data.native_size("photos-64x64.pack") == (64, 64)
    monkeypatch.setattr(MODULE, "BLOCK", 1 << 20)
    assert data.pack("digits", image_size=28) == Path("digits-28x28.pack")
    digits = data.load("digits-28x28.pack")
    same(digits, data.load("digits", image_size=28))
    assert digits.channels == 1 and digits.name == "digits"


def test_every_origin_keeps_its_labels(tmp_path, photos):
    labels = np.arange(20) % 3
    np.savez(
        tmp_path / "a.npz", images=np.arange(20, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), y=labels
    )
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos))
    for source in (tmp_path / "a.npz", tmp_path / "photos.zip"):
        folder = data.pack(source, tmp_path / f"{source.stem}.pack", image_size=8)
        same(data.load(folder), data.load(source, image_size=8))
        assert len(data.load(folder).labels) == 20


@pytest.mark.parametrize("colourful", [False, True])
def test_auto_is_one_channel_where_all_are_grey(tmp_path, colourful):
    for index in range(10):
        Image.new("RGB", (8, 8), (9 * index, 9 * index, 9 * index)).save(tmp_path / f"{index}.png")
    if colourful:
        Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "9.png")
    auto, three = (
        data.load(data.pack(tmp_path, tmp_path / f"{c}.pack", image_size=8, channels=c)) for c in ("auto", 3)
    )
    assert auto.channels == (3 if colourful else 1) and three.channels == 3
    assert torch.equal(auto.images.expand(-1, 3, -1, -1), three.images)


def test_damaged_images_are_named_skipped_and_remembered(photos, tmp_path):
    (photos / "even" / "06.png").write_text("no picture")
    (photos / "odd" / "19.png").write_bytes((photos / "odd" / "19.png").read_bytes()[:300])
    with pytest.warns(FastganWarning, match=r"even/06\.png .*odd/19\.png") as caught:
        folder = data.pack(photos, tmp_path / "a", image_size=8)
    assert len(caught) == 1
    images = data.load(folder)
    with pytest.warns(FastganWarning):
        same(images, data.load(photos, image_size=8))
    assert len(images) == 18 and [name for name, _ in images.skipped] == ["even/06.png", "odd/19.png"]


def test_a_source_without_a_sound_image_leaves_nothing_behind(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no picture")
    with pytest.raises(UserError, match="none of the 1 image files in"):
        data.pack(tmp_path / "photos", tmp_path / "a", image_size=8)
    assert list(tmp_path.iterdir()) == [tmp_path / "photos"]


def stop_after(count, error=KeyboardInterrupt):
    def progress(done, total):
        if done == count:
            raise error

    return progress


@pytest.mark.parametrize("count", [1, 4, 10, 20])
def test_a_stopped_pack_goes_on_where_it_was(photos, tmp_path, count):
    (photos / "even" / "02.png").write_text("no picture")
    with pytest.raises(KeyboardInterrupt):
        data.pack(photos, tmp_path / "a", image_size=8, progress=stop_after(count))
    with pytest.raises(UserError, match=r"the pack .*a is not finished; run the `fastgan pack` that began it again"):
        data.load(tmp_path / "a")
    with open(tmp_path / "a" / packed.PROGRESS, "a") as journal:
        journal.write("[4, 4, 12")  # as a kill may leave it
    calls = []
    with pytest.warns(FastganWarning, match=r"even/02\.png"):
        data.pack(photos, tmp_path / "a", image_size=8, progress=lambda *call: calls.append(call))
    assert calls[0] == ((count - 1) // 4 * 4 + 1, 20) and calls[-1] == (20, 20)
    with pytest.warns(FastganWarning):
        data.pack(photos, tmp_path / "b", image_size=8)
    assert manifest(tmp_path / "a") == manifest(tmp_path / "b")
    assert (tmp_path / "a" / packed.PIXELS).read_bytes() == (tmp_path / "b" / packed.PIXELS).read_bytes()


KILLED = """
import os, signal, sys
from fastgan import data
module = sys.modules["fastgan.data.pack"]
module.BLOCK = 4 * 8 * 8 * 3
count = 0

def kill(event, arguments):
    global count
    if event in ("open", "os.rename", "os.remove", "os.truncate") and "PACK" in str(arguments[:2]):
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
data.pack(sys.argv[1], os.path.join(os.path.dirname(sys.argv[1]), "PACK"), image_size=8)
"""


@pytest.mark.long
def test_kill_9_anywhere_loses_nothing(photos, tmp_path):
    whole = data.pack(photos, tmp_path / "whole", image_size=8)
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])}
    kills = 0
    for at in (1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16):
        call = [sys.executable, "-c", KILLED, str(photos), str(at)]
        ended = subprocess.run(call, env=environment, capture_output=True, text=True).returncode
        assert ended in (0, -signal.SIGKILL)
        kills += ended != 0
        folder = data.pack(photos, tmp_path / "PACK", image_size=8)
        assert manifest(folder) == manifest(whole)
        assert (folder / packed.PIXELS).read_bytes() == (whole / packed.PIXELS).read_bytes()
        assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [packed.MANIFEST, packed.PIXELS]
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert kills >= 8


def test_a_kill_between_the_renaming_and_the_manifest_is_mended(photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(packed.Manifest, "write", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            data.pack(photos, tmp_path / "a", image_size=8)
    assert (tmp_path / "a" / packed.PIXELS).exists()
    same(data.load(data.pack(photos, tmp_path / "a", image_size=8)), data.load(photos, image_size=8))


@pytest.fixture
def largest_file():
    """Makes writes beyond a size fail, as a full disk does, for a while."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_is_one_sentence_and_the_pack_goes_on(photos, tmp_path, largest_file):
    largest_file(10 * 8 * 8 * 3)  # two blocks and a half
    with pytest.raises(UserError) as error:
        data.pack(photos, tmp_path / "a", image_size=8)
    largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert "a cannot be written (File too large); 8 of 20 images are packed and kept, make room and run" in str(
        error.value
    )
    calls = []
    folder = data.pack(photos, tmp_path / "a", image_size=8, progress=lambda done, total: calls.append(done))
    assert calls[0] == 9
    same(data.load(folder), data.load(photos, image_size=8))


def test_a_closed_pipe_is_no_full_disk_and_the_pack_goes_on(photos, tmp_path):
    def tell(done, total):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        data.pack(photos, tmp_path / "p", image_size=8, progress=tell)
    same(data.load(data.pack(photos, tmp_path / "p", image_size=8)), data.load(photos, image_size=8))


def test_the_same_again_changes_nothing_and_another_is_refused(photos, tmp_path):
    folder = data.pack(photos, tmp_path / "a", image_size=8)
    before = (folder / packed.MANIFEST).stat().st_mtime_ns
    calls = []
    assert data.pack(photos, folder, image_size=8, progress=lambda *call: calls.append(call)) == folder
    assert not calls and (folder / packed.MANIFEST).stat().st_mtime_ns == before
    for options in ({"image_size": 9}, {"image_size": 8, "channels": 3}, {"image_size": 8, "resize": "pad"}):
        with pytest.raises(UserError, match=r"a, a pack of other images or options; choose another folder"):
            data.pack(photos, folder, **options)
    Image.new("RGB", (8, 8)).save(photos / "even" / "new.png")
    with pytest.raises(UserError, match="a pack of other images or options"):
        data.pack(photos, folder, image_size=8)


def test_an_unfinished_pack_of_other_images_is_refused(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        data.pack(photos, tmp_path / "a", image_size=8, progress=stop_after(10))
    Image.new("RGB", (8, 8)).save(photos / "even" / "00.png")
    with pytest.raises(UserError, match="was begun with other images or options; choose another folder or remove it"):
        data.pack(photos, tmp_path / "a", image_size=8)


def test_what_out_may_not_be(photos, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (photos, tmp_path / "file"):
        with pytest.raises(UserError, match="which is not empty; choose another folder or remove it"):
            data.pack(photos, out, image_size=8)
    with pytest.raises(
        UserError, match=r"cannot be written \(Not a directory\); 0 of 20 images .* choose another folder"
    ):
        data.pack(photos, tmp_path / "file" / "a", image_size=8)
    assert (tmp_path / "file").read_text() == "precious" and len(data.load(photos)) == 20
    folder = data.pack(photos, tmp_path / "a", image_size=8)
    with pytest.raises(UserError, match="a is packed already; give what it was packed from"):
        data.pack(folder)


def test_two_processes_do_not_pack_into_one_folder(photos, tmp_path):
    (tmp_path / "a").mkdir()
    with open(tmp_path / "a" / "images.part", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="a, which another process is packing; wait for it"):
            data.pack(photos, tmp_path / "a", image_size=8)


def changed(**values):
    def change(folder):
        (folder / packed.MANIFEST).write_text(json.dumps(manifest(folder) | values))

    return change


def flipped(folder):
    content = bytearray((folder / packed.PIXELS).read_bytes())
    content[1600] ^= 1
    (folder / packed.PIXELS).write_bytes(content)


def cut(folder):
    os.truncate(folder / packed.PIXELS, 3839)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, r"damaged \(images\.u8 has 3,839 bytes, where 3,840 belong\); remove it and pack its source anew"),
        (flipped, r"damaged \(images 8 to 11 have another checksum\)"),
        (lambda folder: (folder / packed.PIXELS).unlink(), r"damaged \(images\.u8: No such file"),
        (lambda folder: (folder / packed.MANIFEST).write_text("{"), r"damaged \(fastgan-pack\.json: .*\)"),
        (changed(count=19), "do not agree on the number of images"),
        (changed(labels=[0]), "do not agree on the number of images"),
        (changed(colour=True), r"damaged \(fastgan-pack\.json: .*colour"),
        (changed(version=2), "is of version 2, but this fastgan reads version 1; pack its source anew"),
    ],
)
def test_damaged_and_other_packs_are_one_sentence(photos, tmp_path, damage, words):
    folder = data.pack(photos, tmp_path / "a", image_size=8)
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        data.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    with pytest.raises(UserError):
        data.pack(photos, folder, image_size=8)


def test_of_a_large_pack_a_part_is_checked_when_it_is_loaded(photos, tmp_path, monkeypatch):
    folder = data.pack(photos, tmp_path / "a", image_size=8)
    monkeypatch.setattr(packed, "CHECKED", 3 * 4 * 8 * 8 * 3)  # three of five blocks: every second one
    flipped(folder)  # in the third block
    with pytest.raises(UserError, match="images 8 to 11"):
        data.load(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 16}, "holds images of 8x8, but image_size is 16x16; leave it out, or pack the source again"),
        ({"image_size": (8, 9)}, "holds images of 8x8, but image_size is 8x9"),
        ({"channels": 1}, "holds images of 3 channels, but channels is 1; leave it out, or pack"),
    ],
)
def test_another_size_than_the_packs_is_one_sentence(photos, tmp_path, options, words):
    folder = data.pack(photos, tmp_path / "a", image_size=8)
    with pytest.raises(UserError, match=words):
        data.load(folder, **options)
    assert data.load(folder, image_size=8, channels=3).images.shape == (20, 3, 8, 8)
