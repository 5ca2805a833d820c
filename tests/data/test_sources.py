"""Tensors, arrays, datasets and loaders: which values and shapes are understood, and the streams made of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fastgan import data, errors
from fastgan.errors import FastganWarning, UserError

GREY = torch.arange(10 * 25, dtype=torch.uint8).view(10, 1, 5, 5)
SCALED = GREY / 127.5 - 1


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(SCALED)


@pytest.mark.parametrize(
    "given",
    [
        GREY,
        GREY[:, 0],
        GREY.numpy(),
        GREY.permute(0, 2, 3, 1).numpy(),
        GREY.to(torch.int64),
        GREY.numpy().astype(np.uint16),
        SCALED,
        SCALED.double(),
        SCALED.numpy(),
    ],
)
def test_from_tensor_reads_shapes_and_values(given):
    images = data.from_tensor(given, labels=np.arange(10))
    assert torch.equal(images.images, GREY)
    assert images.labels.tolist() == list(range(10))


def test_floats_without_a_negative_value_run_from_0_to_1():
    assert torch.equal(data.from_tensor(GREY / 255).images, GREY)
    assert data.from_tensor(torch.eye(4).bool()[None]).images.unique().tolist() == [0, 255]


def test_the_overshoot_of_filters_is_cut_off():
    assert data.from_tensor(torch.tensor([[[-0.04, 0.0, 1.0, 1.04]]])).images.flatten().tolist() == [0, 0, 255, 255]
    assert data.from_tensor(torch.tensor([[[-1.09, -1.0, 1.0, 1.09]]])).images.flatten().tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (255,)])
def test_a_value_range_is_black_and_white(value_range):
    for take in (data.from_tensor, lambda images, **given: data.stream_of(TensorDataset(images), 2, **given)):
        with pytest.raises(UserError, match="value_range must be"):
            take(torch.zeros(2, 1, 4, 4), value_range=value_range)


def test_arrays_read_backwards():
    colour = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)  # say BGR, turned to RGB
    expected = torch.from_numpy(colour[..., ::-1].copy()).permute(0, 3, 1, 2)
    assert torch.equal(data.from_tensor(colour[..., ::-1]).images, expected)
    assert torch.equal(data.from_dataset([image[..., ::-1] for image in colour]).images, expected)


def test_value_range_says_what_cannot_be_guessed():
    assert torch.equal(data.from_tensor(GREY.float(), value_range=(0, 255)).images, GREY)
    from_half = data.from_tensor(GREY / 255, value_range=(-1, 1)).images
    assert (from_half - (GREY / 2 + 127.5)).abs().max() <= 0.5
    assert data.from_tensor(GREY.to(torch.int32) * 257, value_range=(0, 65535)).images.equal(GREY)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (GREY.float(), "values from 0 to 1, but they have 0 to 249; .*value_range"),
        (SCALED * 3, "values from -1 to 1, but they have -3"),
        (torch.full((1, 1, 2, 2), float("nan")), "but they have nan"),
        (GREY.to(torch.int64) + 200, "from 0 to 255, but they have 200 to 449"),
        (torch.zeros(2, 5, 4, 2), r"C 1, 3 or 4, but they are \[2, 5, 4, 2\]"),
        (torch.zeros(4, 4), r"but they are \[4, 4\]"),
        (torch.zeros(0, 1, 4, 4), "at least one image"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.complex64), "real numbers, but they are a Tensor of torch.complex64"),
        (np.array([None]), "real numbers, but they are a ndarray of object"),
    ],
)
def test_other_tensors_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        data.from_tensor(given)


@pytest.mark.parametrize(
    "items",
    [
        list(SCALED),
        [(image, 3) for image in SCALED],
        [(image[0].numpy(), 3) for image in GREY],
        [(Image.fromarray(image[0].numpy()), 3) for image in GREY],
        [Image.fromarray(image[0].numpy()).convert("P") for image in GREY],
    ],
)
def test_datasets_of_tensors_arrays_and_pictures(items):
    images = data.from_dataset(Listed(items))
    assert images.images[:, :1].equal(GREY)
    assert images.labels is None or images.labels.tolist() == [3] * 10
    stream = data.stream_of(Listed(items), batch_size=4, seed=1)
    expected = data.stream_of(data.from_tensor(GREY), batch_size=4, seed=1)
    for step in (0, 5, 1):
        assert torch.allclose(stream.batch(step)[:, :1], expected.batch(step), atol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("given", [GREY, data.from_tensor(GREY), TensorDataset(SCALED)])
def test_resumable_streams_repeat_themselves_exactly(given, mirror):
    stream = data.stream_of(given, batch_size=6, seed=3, mirror=mirror)
    assert stream.resumable and stream.n == 10 and stream.batch_size == 6
    assert (stream.channels, stream.image_size) == (1, (5, 5))
    batches = [stream.batch(step) for step in range(8)]
    resumed = data.stream_of(given, batch_size=6, seed=3, mirror=mirror)
    for step in (7, 2, 5):
        assert torch.equal(resumed.batch(step), batches[step])
    assert all(batch.shape == (6, 1, 5, 5) and batch.dtype == torch.float32 for batch in batches)
    ascending = torch.cat(batches)[:, 0, 0]
    assert ((ascending.diff() < 0).any()).item() == mirror


def test_transforms_of_a_dataset_stay_random():
    class Noisy(Listed):
        def __getitem__(self, index):
            return torch.rand(1, 4, 4)

    stream = data.stream_of(Noisy([0] * 4), batch_size=4)
    assert not torch.equal(stream.batch(0), stream.batch(0))


def test_a_loader_is_iterated_again_and_again_as_it_is():
    loader = DataLoader(TensorDataset(SCALED, torch.arange(10)), batch_size=4)
    stream = data.stream_of(loader, batch_size=64)
    assert not stream.resumable and stream.batch_size == 4 and stream.n == 10
    batches = [stream.batch(step) for step in range(6)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert torch.equal(torch.cat(batches[:3]), SCALED) and torch.equal(torch.cat(batches[3:]), SCALED)


def test_an_iterable_dataset_gives_full_batches():
    stream = data.stream_of(Endless(), batch_size=4)
    assert stream.n is None and not stream.resumable
    assert [len(stream.batch(step)) for step in range(5)] == [4] * 5


def test_names_of_data_are_loaded(tmp_path):
    Image.new("L", (8, 8), 5).save(tmp_path / "a.png")
    assert data.stream_of("digits", 8).batch(0).shape == (8, 1, 32, 32)
    assert data.stream_of(tmp_path, 8).batch(0).shape == (8, 1, 64, 64)


def test_dtype_and_memory_format():
    colour = SCALED.expand(-1, 3, -1, -1)
    for given in (data.from_tensor(colour), TensorDataset(colour), DataLoader(TensorDataset(colour), batch_size=5)):
        batch = data.stream_of(given, 5).batch(0, device="cpu", dtype=torch.bfloat16)
        assert batch.dtype == torch.bfloat16 and batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, "a DataLoader, but it is a int"),
        ({"train": [SCALED[0]]}, "a DataLoader, but it is a dict"),
        (Listed([]), "empty|at least 1 image"),
        (Listed([{"image": SCALED[0]}]), "one has a dict"),
        (Listed([torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)]), r"\[1, 4, 4\].*\[1, 5, 4\]"),
        (DataLoader(Listed([]), batch_size=2), "gives no batch"),
    ],
)
def test_what_is_no_data_is_named(given, words):
    with pytest.raises(UserError, match=words):
        data.stream_of(given, 4)


def test_a_later_batch_of_other_values_or_sizes_is_named():
    stream = data.stream_of(DataLoader(Listed([torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)]), batch_size=1), 1)
    stream.batch(0)
    with pytest.raises(UserError, match="values from 0 to 1, but they have -1"):
        stream.batch(1)
    stream = data.stream_of(DataLoader(Listed([torch.zeros(1, 2, 2), torch.zeros(1, 3, 2)]), batch_size=1), 1)
    stream.batch(0)
    with pytest.raises(UserError, match=r"batch of step 1 is \[1, 1, 3, 2\]"):
        stream.batch(1)


LABELS = torch.arange(10) % 3


@pytest.fixture
def forgetful(monkeypatch):
    """Warnings that are given once a process are given again."""
    monkeypatch.setattr(errors, "_warned", set())


@pytest.mark.parametrize(
    "given",
    [
        data.from_tensor(GREY, LABELS),
        TensorDataset(SCALED, LABELS),
        Listed([(image, int(label)) for image, label in zip(SCALED, LABELS, strict=True)]),
        DataLoader(TensorDataset(SCALED, LABELS.int()), batch_size=4),
    ],
)
def test_labels_come_with_their_images(given):
    stream = data.stream_of(given, batch_size=4, seed=3)
    for step in range(5):
        images, labels = stream.batch_with_labels(step, dtype=torch.float64)
        assert images.dtype == torch.float64 and labels.dtype == torch.int64 and len(labels) == len(images)
        # Every image of GREY begins with another value.
        index = [(SCALED[:, 0, 0, 0] - image[0, 0, 0]).abs().argmin() for image in images]
        assert labels.tolist() == LABELS[torch.stack(index)].tolist()
        if stream.resumable:
            assert torch.equal(images, stream.batch(step, dtype=torch.float64))


@pytest.mark.parametrize(
    "given",
    [
        GREY,
        Listed(list(SCALED)),
        TensorDataset(SCALED, LABELS / 2),
        TensorDataset(SCALED, SCALED),
        DataLoader(TensorDataset(SCALED, LABELS / 2), batch_size=4),
        DataLoader(TensorDataset(SCALED), batch_size=4),
    ],
)
def test_what_is_no_class_is_no_label(given):
    assert data.stream_of(given, batch_size=4).batch_with_labels(0)[1] is None


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("given", [GREY, Listed(list(SCALED))])
def test_fewer_images_than_a_batch_are_repeated_and_told_once(given):
    with pytest.warns(
        FastganWarning, match="has 10 images, fewer than the batch_size of 25.*smaller batch_size"
    ) as caught:
        stream = data.stream_of(given, batch_size=25)
        data.stream_of(given, batch_size=25)
    assert len(caught) == 1
    counts = torch.cat([stream.stream.indices(step) for step in range(2)]).bincount()
    assert counts.tolist() == [5] * 10 and len(stream.batch(0)) == 25


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("value", [0, 255, None])
def test_images_without_a_difference_are_told(value):
    images = GREY[:1].expand(10, -1, -1, -1) if value is None else torch.full_like(GREY, value)
    with pytest.warns(FastganWarning, match="all 10 images of tensor are the same, .* check a tensor of 10 images"):
        data.stream_of(images, batch_size=4)


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_a_cache_has_the_same_batches(tmp_path, cache):
    np.save(tmp_path / "a.npy", GREY.numpy())
    plain = data.stream_of(tmp_path / "a.npy", batch_size=4)
    stream = data.stream_of(tmp_path / "a.npy", batch_size=4, cache=cache, device="cpu")
    assert plain.images.mapping is not None and stream.images.mapping is None
    assert torch.equal(plain.batch(5), stream.batch(5))


@pytest.mark.parametrize(
    ("given", "cache", "words"),
    [
        (GREY, "gpu", "cache must be one of auto, memory, device, but it is 'gpu'"),
        (Listed(list(SCALED)), "device", "cache is 'device', but a Listed gives its images itself; leave it out"),
    ],
)
def test_a_cache_that_cannot_be_is_named(given, cache, words):
    with pytest.raises(UserError, match=words):
        data.stream_of(given, 4, cache=cache)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cache_on_the_gpu_has_the_same_batches():
    plain = data.stream_of(data.from_tensor(GREY, LABELS), batch_size=4, mirror=True)
    stream = data.stream_of(data.from_tensor(GREY, LABELS), batch_size=4, mirror=True, cache="device", device="cuda")
    assert stream.images.images.is_cuda
    for step in range(4):
        images, labels = stream.batch_with_labels(step, device="cuda")
        assert images.is_cuda and labels.is_cuda
        assert torch.allclose(images.cpu(), plain.batch(step), atol=1e-6)
        assert torch.equal(plain.batch(step, device="cuda").cpu(), images.cpu())
