"""Runs whose networks are given classes, or images to make images of."""

import dataclasses

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fastgan
from fastgan import data
from fastgan.errors import UserError
from fastgan.training import TrainConfig, Trainer
from fastgan.training.task import SOURCES, Sources

SIZE = 16


@pytest.fixture
def photos(tmp_path):
    """Six colour pictures, and beside them their grey twins under other suffixes."""
    torch.manual_seed(0)
    for index in range(6):
        pixels = torch.randint(0, 255, (SIZE, SIZE, 3), dtype=torch.uint8).numpy()
        for folder, suffix in (("after", "png"), ("before", "bmp")):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture = Image.fromarray(pixels)
            path = tmp_path / folder / f"{index}.{suffix}"
            (picture if folder == "after" else picture.convert("L")).save(path)
    return tmp_path


def trained(tmp_path, name="run", data=None, steps=4, **options):
    options = {"batch_size": 4, "width": 4, "device": "cpu", "precision": "fp32", "sample_every": 2, **options}
    config = TrainConfig(out=str(tmp_path / name), steps=steps, checkpoint_every=2, **options)
    return Trainer(config, data=data).train()


def labelled(n=24, classes=3):
    labels = torch.arange(n) % classes
    images = (labels[:, None, None, None] * 100).expand(n, 1, SIZE, SIZE).to(torch.uint8).contiguous()
    return data.from_tensor(images, labels, value_range=(0, 255))


@pytest.mark.parametrize("model", ["dcgan", "mlp", "lenet"])
def test_a_conditional_run_makes_images_by_class(tmp_path, model):
    result = trained(tmp_path, data=labelled(), model=model, conditional=True)
    gan = fastgan.load(result.folder)
    assert gan.num_classes == 3
    assert gan.generate(4, label=2).shape == (4, 1, SIZE, SIZE)
    with Image.open(result.folder / "samples" / "step-000004.png") as picture:
        assert picture.width > 2 * picture.height  # a row of eight for each of three classes


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("cat", "cow", "dog"), "classes   0 cat, 1 cow, 2 dog\n"),
        (("0", "1", "2"), "classes   0, 1, 2\n"),
        (tuple(f"kind{n}" for n in range(12)), "8 kind8, 9 kind9, ... (12 in all)\n"),
    ],
)
def test_a_conditional_run_tells_and_keeps_which_class_has_which_number(tmp_path, capsys, names, line):
    images = dataclasses.replace(labelled(), classes=names)
    result = trained(tmp_path, data=images, conditional=True, width=2)
    assert line in capsys.readouterr().out
    gan = fastgan.load(result.folder)
    assert gan.classes == names
    assert torch.equal(gan.generate(2, label=names[1]), gan.generate(2, label=[1, names[1]]))


def test_classes_that_are_not_told_to_the_networks_are_not_named(tmp_path, capsys):
    trained(tmp_path, data="digits", width=2, steps=1)
    assert "classes   " not in capsys.readouterr().out


def test_a_conditional_run_resumes_exactly(tmp_path):
    whole = trained(tmp_path, "whole", data=labelled(), conditional=True, width=2)
    trained(tmp_path, "parts", data=labelled(), conditional=True, width=2, steps=2)
    parts = Trainer.resume(tmp_path / "parts", data=labelled(), steps=4).train()
    for ours, theirs in zip(*(fastgan.load(r.folder).generator.parameters() for r in (whole, parts)), strict=True):
        assert torch.equal(ours, theirs)


class Labelled(Dataset):
    """Items of an image and a label, which alone does not tell how many there are."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((1, SIZE, SIZE), index / 12), index % 3


def test_the_classes_of_a_dataset(tmp_path):
    options = {"conditional": True, "width": 2, "batch_size": 4, "device": "cpu"}
    tensors = TensorDataset(torch.rand(12, 1, SIZE, SIZE), torch.arange(12) % 3)
    for given in (data.from_dataset(Labelled()), tensors, DataLoader(tensors, batch_size=4)):
        assert Trainer(TrainConfig(**options), data=given).task.num_classes == 3
    with pytest.raises(UserError, match=r"does not tell how many .* give fastgan\.data\.from_dataset\(dataset"):
        Trainer(TrainConfig(**options), data=Labelled())


@pytest.mark.parametrize("task", [*SOURCES, "pairs"])
def test_a_run_makes_images_of_images(photos, task):
    source = str(photos / "before") if task == "pairs" else None
    options = {"model": "encoder_decoder", "image_size": SIZE, "task": task, "source": source}
    result = trained(photos, data=str(photos / "after"), **options)
    assert result.metrics["l1"] > 0
    gan = fastgan.load(result.folder)
    channels = 1 if task in ("colourise", "pairs") else 3
    assert gan.translate(torch.zeros(2, channels, SIZE, SIZE)).shape == (2, 3, SIZE, SIZE)
    assert len(list((result.folder / "samples").glob("step-*.png"))) == 3


@pytest.mark.parametrize("task", SOURCES)
def test_sources_are_a_function_of_the_turn(task):
    stream = data.stream_of(torch.randint(0, 255, (8, 3, SIZE, SIZE), dtype=torch.uint8), 4)
    first, again = (Sources(stream, torch.device("cpu"), 0, task).batch([3, 4]) for _ in range(2))
    assert torch.equal(first.latent, again.latent) and torch.equal(first.real, again.real)
    assert first.latent.shape == (8, 1 if task == "colourise" else 3, SIZE, SIZE)
    assert not torch.equal(first.latent.expand_as(first.real), first.real)
    assert first.latent.abs().max() <= 1


def test_a_hole_is_a_quarter_of_the_image():
    real = torch.ones(5, 3, 12, 20)
    holes = SOURCES["inpaint"](real, torch.Generator().manual_seed(0)) == 0
    assert (holes.sum((1, 2, 3)) == 3 * 6 * 10).all()


def test_pairs_stay_pairs(photos):
    """Batches of both streams hold the same pictures, mirrored alike."""
    options = {"model": "encoder_decoder", "task": "pairs", "source": str(photos / "before"), "mirror": True}
    config = TrainConfig(data=str(photos / "after"), image_size=SIZE, batch_size=4, width=2, device="cpu", **options)
    real, source, _ = Trainer(config).task.batch(range(4))
    grey = SOURCES["colourise"](real, torch.Generator())
    assert (source - grey).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditional": True}, "conditional needs images with labels, but after has no classes"),
        ({"task": "denoise"}, "task denoise makes images of images, but model is 'dcgan'"),
        ({"model": "encoder_decoder"}, "but task is not given; give one of denoise, colourise, inpaint, pairs"),
        ({"model": "encoder_decoder", "task": "pairs"}, "task is pairs, but source is not given"),
        ({"source": "before"}, "source is 'before', but task is not given; give model encoder_decoder and task pairs"),
        ({"model": "encoder_decoder", "task": "denoise", "source": "before"}, "but task is denoise"),
        (
            {"model": "encoder_decoder", "task": "pairs", "source": "nowhere"},
            "source nowhere does not exist; give the folder of the source images",
        ),
        ({"l1_weight": 3.0}, "l1_weight is 3, but task is not given"),
        ({"model": "encoder_decoder", "task": "denoise", "conditional": True}, "are both given"),
        ({"model": "encoder_decoder", "task": "sharpen"}, "task must be one of"),
        ({"model": "mlp", "head": "linear"}, "model 'mlp' takes no head"),
    ],
)
def test_wrong_tasks_are_named_and_write_nothing(photos, options, words):
    with pytest.raises(UserError, match=words):
        trained(photos, data=str(photos / "after"), image_size=SIZE, **options)
    assert not (photos / "run").exists()


def test_a_weight_of_nothing_needs_no_task():
    assert Trainer(TrainConfig(l1_weight=0.0, width=2, device="cpu")).config.l1_weight == 0


def test_unequal_pairs_are_named(photos):
    (photos / "before" / "3.bmp").unlink()
    options = {"model": "encoder_decoder", "image_size": SIZE, "task": "pairs", "source": str(photos / "before")}
    with pytest.raises(UserError, match=r"before has no image for 1 of the 6 of .*after \(3\)"):
        trained(photos, data=str(photos / "after"), **options)


def test_grey_images_are_not_colourised(tmp_path):
    with pytest.raises(UserError, match="has grey images"):
        trained(tmp_path, data=labelled(), model="encoder_decoder", task="colourise")
