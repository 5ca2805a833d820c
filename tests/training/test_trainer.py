import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastgan
from fastgan.errors import FastganWarning, UserError
from fastgan.training import TrainConfig, Trainer, load_checkpoint
from fastgan.training.run_folder import RunFolder
from fastgan.training.saver import Saver
from fastgan.training.step import METRICS

COLUMNS = ["step", "epoch", "images_per_second", "loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after"]


def rows_of(folder):
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]


def test_what_a_run_leaves(trainer):
    result = trainer(steps=7, sample_every=3, checkpoint_every=2, keep_checkpoints=2).train()
    folder = RunFolder(result.folder)
    assert (result.step, result.stopped_by) == (7, "")
    assert sorted(path.name for path in folder.samples.iterdir()) == [
        "real.png",
        *(f"step-00000{step}.png" for step in (0, 3, 6, 7)),
    ]
    assert [path.name for path in folder.all_checkpoints()] == ["step-000006.safetensors", "step-000007.safetensors"]
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "generator.safetensors",
        "health.jsonl",
        "metrics.jsonl",
        "run.png",
        "samples",
    ]
    rows = rows_of(folder.path)
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert all(list(row) == COLUMNS and all(map(math.isfinite, row.values())) for row in rows)
    assert rows[-1] == result.metrics and rows[4]["epoch"] == 1.0
    config = TrainConfig.from_json(folder.config.read_text())
    assert (config.data, config.image_size, config.channels, config.steps) == ("tensor", 16, 1, 7)
    assert Image.open(folder.sample(7)).size == Image.open(folder.samples / "real.png").size


def test_same_seed_same_weights(trainer):
    runs = [trainer(out=str(index), seed=seed) for index, seed in enumerate([3, 3, 4])]
    for run in runs:
        run.train()
    first, second, third = ([*run.state.generator.parameters()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_checkpoint_of_a_run_loads(trainer):
    run = trainer()
    folder = RunFolder(run.train().folder)
    other = trainer(out="other", seed=9)
    load_checkpoint(folder.checkpoint(4), other.state)
    assert other.state.step == 4 and other.state.images == 32
    for name in ("generator", "discriminator"):
        for a, b in zip(getattr(run.state, name).parameters(), getattr(other.state, name).parameters(), strict=True):
            assert torch.equal(a, b)
    saved = fastgan.load(folder.path).generator.state_dict()
    assert all(torch.equal(saved[key], value) for key, value in run.state.ema.module.state_dict().items())


def test_weights_and_images_are_channels_last(trainer):
    run = trainer()
    assert run.state.generator.main[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert run.state.opt_g.defaults["fused"] is True


def test_an_epoch_of_the_digits_visits_each_once(tmp_path, monkeypatch):
    run = Trainer(TrainConfig(out=str(tmp_path / "run"), epochs=1, batch_size=50, width=2, latent_dim=4))
    assert run.total_steps == 100
    taken = []
    indices = run.stream.stream.indices
    monkeypatch.setattr(Saver, "write_real", lambda *_: None)
    monkeypatch.setattr(run.stream.stream, "indices", lambda step: taken.append(indices(step)) or taken[-1])
    run.step = lambda real, *given: dict.fromkeys(METRICS, real.new_zeros(()))  # the data is what is looked at
    run.step.from_logits = True
    run.train()
    assert len(taken) == 100
    assert sorted(torch.cat(taken).tolist()) == list(range(5000))


def picture(path, size, mode):
    rng = np.random.default_rng(len(path.name))
    pixels = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(path)


def test_folder_of_all_kinds(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture(photos / "portrait.png", (20, 40), "RGB")
    picture(photos / "landscape.jpg", (50, 30), "RGB")
    picture(photos / "grey.png", (24, 24), "L")
    picture(photos / "alpha.png", (30, 24), "RGBA")
    picture(photos / "palette.gif", (24, 30), "P")
    (photos / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    options = {"image_size": (16, 24), "steps": 3, "batch_size": 4, "width": 2, "latent_dim": 4, "mirror": True}
    with pytest.warns(FastganWarning, match=r"corrupt\.png"):
        run = Trainer(TrainConfig(data=str(photos), out=str(tmp_path / "run"), **options))
    result = run.train()
    rows = rows_of(result.folder)
    assert len(rows) == 3 and all(math.isfinite(value) for row in rows for value in row.values())
    assert fastgan.load(result).generate(2).shape == (2, 3, 16, 24)


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.paint = nn.Linear(5, 16), nn.ConvTranspose2d(1, 1, 4, 4)

    def forward(self, latent):
        return torch.tanh(self.paint(self.lift(latent).view(-1, 1, 4, 4)))


def test_own_networks_and_loader(trainer, images):
    loader = DataLoader(TensorDataset(images.float() / 255), batch_size=8, shuffle=True)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(256, 1), nn.Sigmoid())
    result = trainer(data=loader, networks=(OwnGenerator(), discriminator)).train()
    assert len(rows_of(result.folder)) == 4
    with pytest.raises(UserError, match="a network of your own, OwnGenerator"):
        fastgan.load(result.folder)
    gan = fastgan.load(result.folder, generator=OwnGenerator(), discriminator=discriminator)
    made = gan.generate(3)
    torch.testing.assert_close(gan.score(made), discriminator(made).flatten())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "stylegan9"}, "model 'stylegan9' is unknown"),
        ({"data": None, "image_size": 8}, "image_size 8x8"),
        ({"image_size": 32}, r"image_size is 32, but tensor has \(16, 16\)"),
        ({"channels": 3}, "channels is 3, but tensor has 1"),
        ({"device": "tpu"}, "device"),
        ({"device": "cuda:77"}, "device is 'cuda:77'"),
        ({"networks": (OwnGenerator(), nn.Linear(1, 1)), "data": torch.zeros(8, 1, 32, 32)}, "generator makes"),
        ({"batch_size": 41}, "batch_size is 41, but tensor has 40 images; give a batch_size of at most 40"),
        ({"latent_dim": 10**12}, r"does not fit into the memory of the cpu with .* latent_dim 1000000000000"),
    ],
)
def test_mistakes_write_nothing(trainer, tmp_path, options, words):
    with pytest.raises(UserError, match=words) as caught:
        trainer(**options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_full_out_folder_is_left_alone(trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    with pytest.raises(UserError, match="not empty; choose another folder or remove it"):
        trainer()
    assert (tmp_path / "run" / "mine").read_text() == "precious"


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_while_it_trains(trainer, monkeypatch, wanted):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    run, seen = trainer(deterministic=wanted), []
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == wanted  # before the networks are first called
    update = run.state.ema.update
    monkeypatch.setattr(
        run.state.ema,
        "update",
        lambda module: seen.append(torch.are_deterministic_algorithms_enabled()) or update(module),
    )
    run.train()
    assert seen == [wanted] * 4 and not torch.are_deterministic_algorithms_enabled()


def test_epochs_need_a_length(trainer, images):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(images)

    with pytest.raises(UserError, match="give steps instead"):
        trainer(data=Endless(), steps=None, epochs=2)


def test_a_signal_between_two_steps_ends_with_a_checkpoint_too(trainer, monkeypatch):
    class Progress:
        def update(self, row):
            if row["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def close(self):
            pass

    monkeypatch.setattr("fastgan.training.trainer.progress_on", lambda *_: Progress())
    result = trainer(steps=9, sample_every=2, checkpoint_every=0).train()
    assert (result.step, result.stopped_by) == (3, "SIGTERM")
    folder = RunFolder(result.folder)
    assert folder.all_checkpoints() == [folder.checkpoint(3)] and folder.sample(3).is_file()


def test_a_full_disk_is_a_sentence(trainer, tmp_path, monkeypatch):
    run = trainer(checkpoint_every=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastgan.training.saver.write_tensors", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        run.train()
    assert len(rows_of(tmp_path / "run")) == 2
    assert RunFolder(tmp_path / "run").all_checkpoints()
