"""Files of arrays: .npy, .npz and IDX, their labels, and what is said of damaged ones."""

import gzip
import struct

import numpy as np
import pytest
import torch

from fastgan import data
from fastgan.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (10, 20, 24), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 20, 24, 3), dtype=np.uint8)
LABELS = np.arange(10) % 4
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array, dtype="u1"):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[dtype], array.ndim, *array.shape)
    return header + array.astype(f">{dtype}").tobytes()


@pytest.mark.parametrize("array", [GREY, COLOUR, COLOUR.transpose(0, 3, 1, 2), COLOUR / 255, np.asfortranarray(COLOUR)])
def test_npy_is_what_from_tensor_reads(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    images = data.load(tmp_path / "a.npy")
    assert torch.equal(images.images, data.from_tensor(array).images)
    assert (images.name, images.source, images.labels) == ("a", str(tmp_path / "a.npy"), None)
    assert (images.mapping is not None) == (array.dtype == np.uint8 and not np.isfortran(array))
    assert torch.equal(images.batch([3, 1]), data.from_tensor(array).batch([3, 1]))


def test_the_size_is_the_arrays_own_unless_another_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", COLOUR)
    assert data.native_size(tmp_path / "a.npy") == (20, 24)
    assert data.load(tmp_path / "a.npy").images.shape == (10, 3, 20, 24)
    resized = data.load(tmp_path / "a.npy", image_size=(10, 12), resize="stretch", channels=4)
    assert resized.images.shape == (10, 4, 10, 12) and (resized.images[:, 3] == 255).all()
    means = [images.images[:, :3].double().mean((2, 3)) for images in (resized, data.load(tmp_path / "a.npy"))]
    assert torch.allclose(*means, atol=3)
    assert data.load(tmp_path / "a.npy", channels=1).channels == 1


def test_images_with_transparency_are_composited_on_white(tmp_path):
    np.save(tmp_path / "a.npy", np.concatenate([COLOUR, np.zeros_like(COLOUR[..., :1])], axis=3))
    assert data.load(tmp_path / "a.npy").images.unique().tolist() == [255]
    assert torch.equal(data.load(tmp_path / "a.npy", channels=4).images[:, :3], data.from_tensor(COLOUR).images)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("images", "y"),
        ("x", "y"),
        ("x_train", "y_train"),
        ("arr_0", "arr_1"),
        ("faces", "labels"),
    ],
)
def test_npz_finds_images_and_labels(tmp_path, images, labels):
    others = {"x_test": GREY[:3], "y_test": LABELS[:3]} if images == "x_train" else {}
    np.savez_compressed(tmp_path / "a.npz", **{images: GREY, labels: LABELS.astype(np.uint8)[:, None]}, **others)
    found = data.load(tmp_path / "a.npz")
    assert torch.equal(found.images[:, 0], torch.from_numpy(GREY))
    assert found.labels.tolist() == LABELS.tolist() and found.labels.dtype == torch.int64
    assert found.classes == ("0", "1", "2", "3")


def test_npz_of_one_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "a.npz", GREY)
    assert len(data.load(tmp_path / "a.npz")) == 10 and data.load(tmp_path / "a.npz").labels is None


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_with_the_labels_beside_it(tmp_path, zipped):
    images = tmp_path / ("train-images-idx3-ubyte" + ".gz" * zipped)
    images.write_bytes(gzip.compress(idx(GREY)) if zipped else idx(GREY))
    assert data.load(images).labels is None
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    found = data.load(images)
    assert torch.equal(found.images[:, 0], torch.from_numpy(GREY)) and found.labels.tolist() == LABELS.tolist()
    assert found.classes == ("0", "1", "2", "3") and found.name == "train-images-idx3-ubyte"
    assert (found.mapping is None) == zipped and data.native_size(images) == (20, 24)


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
def test_idx_of_other_types(tmp_path, dtype):
    (tmp_path / "a.idx").write_bytes(idx(GREY / 255.0 if dtype[0] == "f" else GREY, dtype))
    assert torch.equal(data.load(tmp_path / "a.idx").images[:, 0], torch.from_numpy(GREY))


def npz(**arrays):
    def write(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def npy(array, cut=None):
    def write(path):
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)
        path.write_bytes(path.read_bytes()[:cut])

    return write


def raw(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (npy(GREY, 1000), r"a\.bin cannot be read \(.*\); fetch or make it anew"),
        (npy(np.array([{}, {}])), r"a\.bin holds an array of Python objects; save .* uint8 \[N, H, W, C\]"),
        (npy(GREY[0, 0]), r"a\.bin: images must be \[N, C, H, W\].*\[24\]"),
        (npy(GREY[:0]), "at least one image"),
        (npy(COLOUR * 2.0), "values from 0 to 1, but they have .*; give such of 0 to 255 as uint8, scale"),
        (npz(images=np.array([{}, {}])), r"a\.bin holds an array of Python objects"),
        (npz(a=GREY, b=GREY), r"holds a \[10, 20, 24\], b \[10, 20, 24\], and it is not clear which are the images"),
        (npz(labels=LABELS), "not clear which are the images"),
        (npz(images=GREY, labels=LABELS[:4]), r"labels of .* must be 10 whole numbers.*int64 \[4\]"),
        (npz(images=GREY, labels=LABELS - 1), "whole numbers from 0 to 65,535"),
        (npz(images=GREY, labels=LABELS / 2), "whole numbers.*float64"),
        (raw(idx(GREY)[:-7]), r"it has 4,809 bytes, where 4,816 belong to its shape \[10, 20, 24\]"),
        (raw(gzip.compress(idx(GREY))[:-300]), r"cannot be read \(Compressed file ended"),
        (raw(gzip.compress(b"something else")), r"a\.bin cannot be read \(it does not begin as an IDX file does\)"),
        (raw(idx(GREY)[:11]), r"a\.bin cannot be read"),
        (raw(idx(LABELS)), "holds 10 labels, not images; give the file of the images"),
        (
            raw(b"%PDF-1.7"),
            r"a\.bin is not an intact \.zip, \.npy, \.npz or IDX file \(its first bytes are of none\); fetch or make "
            "it anew, or give the folder of the images",
        ),
        (raw(b""), r"a\.bin is not an intact"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, write, words):
    path = tmp_path / "a.bin"
    write(path)
    with pytest.raises(UserError, match=words) as error:
        data.load(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def every_warning():
    """torch says some things once a process only."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize("array", [GREY, GREY / 255.0, COLOUR], ids=["uint8", "float64", "float32"])
def test_that_a_file_is_only_read_is_nothing_to_warn_of(tmp_path, every_warning, recwarn, array):
    npy(array)(tmp_path / "a.npy")
    assert len(data.load(tmp_path / "a.npy")) == len(array) and not recwarn.list


def test_a_damaged_file_of_labels_is_named(tmp_path):
    (tmp_path / "images.idx3").write_bytes(idx(GREY))
    (tmp_path / "labels.idx1").write_bytes(idx(LABELS)[:-1])
    with pytest.raises(UserError, match=r"labels\.idx1 cannot be read"):
        data.load(tmp_path / "images.idx3")
