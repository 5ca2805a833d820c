"""ImageSet: gathering, mirroring and scaling of batches."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fastgan import data
from fastgan.data import ImageSet, file_map, to_float, to_uint8
from fastgan.errors import UserError


def random_images(*shape, channels_last=False):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_batch_gathers_and_scales(channels, channels_last):
    images = ImageSet(random_images(20, channels, 5, 7, channels_last=channels_last))
    indices = torch.tensor([3, 3, 19, 0])
    batch = images.batch(indices)
    assert batch.dtype == torch.float32 and batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(batch, images.images[indices] / 127.5 - 1, atol=1e-7)
    assert torch.equal(batch, images.batch([3, 3, 19, 0]))
    assert images.batch(indices, memory_format=torch.contiguous_format).is_contiguous()


def test_black_is_minus_1_and_white_1():
    images = ImageSet(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert images.batch([0, 1]).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_value_survives_the_round_trip(dtype):
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    scaled = to_float(values, dtype)
    assert scaled.dtype == dtype
    exact = values.double() / 127.5 - 1
    # Twice the rounding of the quotient in the working precision, and once that to dtype.
    tolerance = 2 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps + torch.finfo(dtype).eps / 2
    assert (scaled.double() - exact).abs().max() <= tolerance
    assert torch.equal(to_uint8(scaled), values)


def test_to_uint8_clamps_and_draws_nan_black():
    values = torch.tensor([-7.0, 7.0, float("nan"), float("inf"), -float("inf"), 0.0])
    assert to_uint8(values).tolist() == [0, 255, 0, 255, 0, 128]


def test_mirror_flips_some_images_whole_and_follows_the_generator():
    images = ImageSet(random_images(64, 3, 4, 6))
    everything = torch.arange(64)
    plain = images.batch(everything)
    mirrored = images.batch(everything, mirror=torch.Generator().manual_seed(5))
    again = images.batch(everything, mirror=torch.Generator().manual_seed(5))
    same = (mirrored == plain).flatten(1).all(1)
    flipped = (mirrored == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored, again)
    assert (same ^ flipped).all() and 16 < flipped.sum() < 48


def test_is_a_dataset_for_torch_loaders():
    images = ImageSet(random_images(10, 1, 4, 4))
    batches = list(DataLoader(images, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), images.batch(range(10)))
    assert torch.equal(images[-1], images[9])
    with pytest.raises(IndexError, match="10"):
        images[10]


def test_knows_its_facts():
    images = ImageSet(random_images(2, 3, 4, 6), name="tiny", source="nowhere")
    assert (len(images), images.channels, images.image_size) == (2, 3, (4, 6))
    assert repr(images) == "ImageSet('tiny', 2 images, 4x6, channels=3, source='nowhere')"


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_other_tensors_are_refused(images):
    with pytest.raises(UserError, match=r"uint8 tensor \[N, C, H, W\].*from_tensor"):
        ImageSet(images)


def test_labels_must_match():
    with pytest.raises(UserError, match=r"\[2\].*\[3\]"):
        ImageSet(random_images(2, 1, 4, 4), labels=torch.zeros(3, dtype=torch.int64))


def test_a_copy_in_memory_has_the_same_batches(tmp_path):
    np.save(tmp_path / "a.npy", random_images(20, 5, 7, 3).numpy())
    mapped = data.load(tmp_path / "a.npy")
    copied = mapped.cached("cpu")
    assert copied.mapping is None and copied.images.data_ptr() != mapped.images.data_ptr()
    assert copied.images.stride() == mapped.images.stride() and torch.equal(copied.batch([3, 9]), mapped.batch([3, 9]))
    assert copied.cached("cpu").images.data_ptr() == copied.images.data_ptr()


def test_a_mapped_set_can_be_sent_to_other_processes(tmp_path):
    np.save(tmp_path / "a.npy", random_images(20, 5, 7, 3).numpy())
    mapped = data.load(tmp_path / "a.npy")
    sent = pickle.loads(pickle.dumps(mapped))
    assert torch.equal(sent.batch([3, 9]), mapped.batch([3, 9]))


def test_a_set_that_does_not_fit_is_a_sentence(monkeypatch):
    def to(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    images = ImageSet(random_images(2, 1, 4, 4), name="tiny")
    monkeypatch.setattr(torch.Tensor, "to", to)
    with pytest.raises(UserError, match=r"the 2 images of tiny take 0\.0 GiB, more than the memory of cuda has free"):
        images.cached("cuda")


def test_mapped_pages_are_handed_back(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", random_images(2000, 64, 64, 3).numpy())
    monkeypatch.setattr(file_map, "RESIDENT", 2 << 20)
    images = data.load(tmp_path / "a.npy")
    expected = images.cached("cpu").batch(range(0, 2000, 7))

    def resident():
        lines = Path("/proc/self/smaps").read_text().split("a.npy\n", 1)[1].splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    batches = []
    for first in range(0, 2000, 70):
        batches.append(images.batch(range(first, min(first + 70, 2000), 7)))
        assert resident() <= 8 << 10  # kB, of a file of 24 MB
    assert torch.equal(torch.cat(batches), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_agree_between_devices():
    images = ImageSet(random_images(16, 3, 4, 6, channels_last=True))
    on_device = ImageSet(images.images.cuda())
    expected = images.batch(range(16), mirror=torch.Generator().manual_seed(1))
    for source in (images, on_device):
        batch = source.batch(range(16), device="cuda", mirror=torch.Generator().manual_seed(1))
        assert batch.is_cuda and torch.allclose(batch.cpu(), expected, atol=1e-6)
