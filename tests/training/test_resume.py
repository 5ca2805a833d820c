"""A run that ends anywhere and goes on comes to the weights of one that was never ended."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fastgan
from fastgan.errors import FastganWarning, TrainingDiverged, UserError
from fastgan.training import TrainConfig, Trainer
from fastgan.training.checkpoint import read_tensors
from fastgan.training.run_folder import RunFolder
from fastgan.training.step import AdversarialStep


def assert_same_run(one, other):
    """The checkpoints of the same last step are equal in every bit, and the rows of metrics in all but the speed."""
    one, other = RunFolder(one), RunFolder(other)
    newest = one.all_checkpoints()[-1]
    tensors, described = read_tensors(newest, "checkpoint")
    others, _ = read_tensors(other.all_checkpoints()[-1], "checkpoint")
    assert tensors.keys() == others.keys() and len(tensors) > 50
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert other.all_checkpoints()[-1].name == newest.name
    assert other.generator.read_bytes() == one.generator.read_bytes()
    rows = [[json.loads(line) for line in folder.metrics.read_text().splitlines()] for folder in (one, other)]
    for row in (*rows[0], *rows[1]):
        row.pop("images_per_second")
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(1, described["step"] + 1))


class Stop(Exception):
    pass


def stopping(monkeypatch, at, how):
    """Makes the step number ``at`` (from 1) of this process end by ``how()``."""
    step, calls = AdversarialStep.__call__, []

    def call(self, *arguments):
        calls.append(None)
        if len(calls) == at:
            how()
        return step(self, *arguments)

    monkeypatch.setattr(AdversarialStep, "__call__", call)


def stop():
    raise Stop


OPTIONS = {"steps": 9, "sample_every": 4, "checkpoint_every": 3, "mirror": True, "precision": "bf16"}


@pytest.mark.parametrize(("at", "after"), [(1, 0), (2, 0), (5, 3), (7, 6), (9, 6)])
def test_bit_equal_after_an_error(trainer, tmp_path, monkeypatch, at, after):
    trainer(**OPTIONS, out="whole").train()
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, at, stop)
        trainer(**OPTIONS).train()
    assert [path.name for path in RunFolder(tmp_path / "run").all_checkpoints()][-1:] == (
        [f"step-{after:06d}.safetensors"] if after else []
    )
    torch.manual_seed(99)  # the random state is the checkpoint's, whatever it is here
    result = trainer(**OPTIONS).train(resume=True)
    assert (result.step, result.stopped_by, result.metrics["step"]) == (9, "", 9)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_bit_equal_after_a_signal(trainer, tmp_path, monkeypatch):
    trainer(**OPTIONS, out="whole").train()
    with monkeypatch.context() as patch:
        stopping(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trainer(**OPTIONS).train().stopped_by == "SIGTERM"
    images = trainer(out="other").stream.images
    resumed = Trainer.resume(tmp_path / "run", data=images, device="cpu")
    assert resumed.train().step == 9
    assert_same_run(tmp_path / "whole", tmp_path / "run")


class Noisy(Dataset):
    """Images with noise from torch's global generator at every reading."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return (torch.full((1, 16, 16), index / 12) + 0.1 * torch.rand(1, 16, 16)).clamp(0, 1)


def test_bit_equal_with_a_random_dataset_and_own_networks(trainer, tmp_path, monkeypatch):
    def make(**options):
        torch.manual_seed(0)
        networks = fastgan.models.build("dcgan", image_size=16, channels=1, latent_dim=6, width=2)
        return trainer(**OPTIONS | {"batch_size": 4} | options, data=Noisy(), networks=networks)

    make(out="whole").train()
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, 8, stop)
        make().train()
    make().train(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_longer_run_is_the_same_run(trainer, tmp_path):
    trainer(**OPTIONS, out="whole").train()
    trainer(**OPTIONS | {"steps": 5}).train()
    result = trainer(**OPTIONS).train(resume=True)
    assert result.step == 9 and TrainConfig.from_json(RunFolder(result).config.read_text()).steps == 9
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_complete_run_stays_as_it_is(trainer, tmp_path, capsys):
    last = trainer().train()
    before = {path: path.read_bytes() for path in RunFolder(last).path.rglob("*.*") if path.name != ".lock"}
    assert trainer().train(resume=True) == last
    assert "which has all its 4 steps; give more of them to train on" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in RunFolder(last).path.rglob("*.*") if path.name != ".lock"} == before


def test_a_run_that_has_more_steps_than_asked_for_stays_as_it_is(trainer, tmp_path, images):
    run = RunFolder(trainer().train())
    before = run.config.read_text()
    sentence = r"has 4 steps already, but is to end after 3; give --steps above 4 \(in Python: steps\)\.$"
    with pytest.raises(UserError, match=sentence):
        Trainer.resume(run.path, data=images, steps=3).train()
    assert run.config.read_text() == before


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints and generator"])
def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew(trainer, images, gone):
    run = RunFolder(trainer(checkpoint_every=2).train())
    for path in [*run.all_checkpoints(), *([run.generator] if "generator" in gone else [])]:
        path.unlink()
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "lo')
    before = run.metrics.read_bytes()
    with pytest.raises(UserError, match=r"run has trained 4 steps, but .*checkpoints holds none .*; bring"):
        Trainer.resume(run.path, data=images, steps=9).train()
    with pytest.raises(UserError, match="has trained 4 steps"):
        trainer(checkpoint_every=2).train(resume=True)
    assert run.metrics.read_bytes() == before


def test_resume_begins_where_there_is_no_run(trainer):
    assert trainer().train(resume=True).step == 4
    run = trainer(out="other")
    run.config.out = None
    with pytest.raises(UserError, match="resume is asked for, but out is not given"):
        run.train(resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 3}, "width of the run .* is 2 and stays so while it goes on, but 3 is asked for; leave it out"),
        ({"seed": 1}, "seed of the run .* is 0"),
        ({"data": None, "image_size": 32}, "image_size of the run"),
    ],
)
def test_what_cannot_change(trainer, tmp_path, images, changes, words):
    run = RunFolder(trainer().train())
    before = run.metrics.read_bytes()
    with pytest.raises(UserError, match=words):
        Trainer.resume(run.path, **{"data": images, **changes})
    with pytest.raises(UserError, match=words):
        trainer(**changes).train(resume=True)
    with pytest.raises(UserError, match="there is no setting 'widht'; did you mean 'width'"):
        Trainer.resume(run.path, widht=3)
    assert run.metrics.read_bytes() == before


def test_what_can_change(trainer, images):
    run = RunFolder(trainer().train())
    changed = Trainer.resume(run.path, data=images, lr=1e-3, epochs=2, on_nan="rollback", batch_size=8, channels="auto")
    assert changed.train().step == 10
    assert [optimizer.param_groups[0]["lr"] for optimizer in (changed.state.opt_g, changed.state.opt_d)] == [1e-3, 1e-3]
    config = TrainConfig.from_json(run.config.read_text())
    assert (config.epochs, config.steps, config.lr_g, config.on_nan) == (2, None, 1e-3, "rollback")
    assert config.out is None  # the folder may move


@pytest.mark.parametrize("precisions", [("bf16", "fp16"), ("fp16", "bf16")], ids="-".join)
def test_goes_on_in_another_precision(trainer, images, precisions):
    run = RunFolder(trainer(precision=precisions[0]).train())
    changed = Trainer.resume(run.path, data=images, precision=precisions[1], steps=6)
    assert changed.train().step == 6
    assert changed.step.state_dict()["calls"] == 6


def test_no_such_run(tmp_path, monkeypatch, trainer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no run under"):
        Trainer.resume()
    with pytest.raises(UserError, match="missing holds no run that could be read"):
        Trainer.resume("missing")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"^photos is a folder, but not of a run \(no config\.json\); .* runs/00000-"):
        Trainer.resume("photos")
    for name in ("00000-a", "00001-b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
        os.utime(tmp_path / "runs" / name / "config.json", (len(name), int(name[4])))
    with pytest.raises(UserError, match=r"give the folder of one, such as runs/00001-b, runs/00000-a\."):
        Trainer.resume("photos")
    run = RunFolder(trainer().train())
    with pytest.raises(UserError, match=r"was trained on tensor, which does not exist; .* \(in Python: data\)"):
        Trainer.resume(run.path)
    run.config.write_text('{"format": 2}')
    with pytest.raises(UserError, match=r"config\.json: the configuration is of format 2"):
        Trainer.resume(run.path)


def test_other_data_is_said(trainer, images):
    trainer(steps=2).train()
    with pytest.warns(FastganWarning, match=r"trained on tensor \(40 images\) and goes on with tensor \(39 images\)"):
        trainer(data=images[1:]).train(resume=True)
    loader = DataLoader(TensorDataset(images), batch_size=8)
    with pytest.warns(FastganWarning, match="the order of tensordataset is its own"):
        trainer(steps=6, data=loader).train(resume=True)


def test_a_damaged_checkpoint_makes_way(trainer, tmp_path):
    trainer(**OPTIONS, out="whole").train()
    folder = RunFolder(trainer(**OPTIONS).train())
    newest = folder.all_checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(FastganWarning, match=r"step-000009\.safetensors is damaged; going on from .*step-000006"):
        assert trainer(**OPTIONS).train(resume=True).step == 9
    assert_same_run(tmp_path / "whole", folder.path)
    assert newest.with_name(f"{newest.name}.damaged").exists()


def test_generator_and_checkpoint_stay_of_one_step(trainer, monkeypatch):
    from fastgan.training import saver as module

    write, written = module.write_tensors, []

    def second_fails(*arguments):
        written.append(None)
        if len(written) == 2:
            raise Stop
        write(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module, "write_tensors", second_fails)  # the generator's, after the checkpoint of step 4
        trainer(checkpoint_every=2, keep_checkpoints=1).train()
    folder = RunFolder(trainer(out="other").config.out).path.parent / "run"
    assert [path.name for path in RunFolder(folder).all_checkpoints()] == [
        f"step-00000{step}.safetensors" for step in (2, 4)
    ]
    gan = fastgan.load(folder)
    tensors, _ = read_tensors(RunFolder(folder).checkpoint(2), "checkpoint")
    assert gan.step == 2 and torch.equal(
        gan.discriminator.state_dict()[key := next(iter(gan.discriminator.state_dict()))],
        tensors[f"discriminator.{key}"],
    )
    trainer(checkpoint_every=2, keep_checkpoints=1).train(resume=True)
    assert fastgan.load(folder).step == 4


def poisoned(monkeypatch, *at):
    """Makes the generator's weights undefined after the steps with these numbers, from 1, of this process."""
    step, calls = AdversarialStep.__call__, []

    def call(self, *arguments):
        metrics = step(self, *arguments)
        calls.append(None)
        if len(calls) in at:
            with torch.no_grad():
                next(self.generator.parameters()).mul_(float("nan"))
        return metrics

    monkeypatch.setattr(AdversarialStep, "__call__", call)


@pytest.mark.parametrize("at", [5, 6])  # seen in the row of step 6; in the state of step 6, whose row is finite
def test_stops_where_it_is_not_finite(trainer, monkeypatch, tmp_path, at):
    poisoned(monkeypatch, at)
    with pytest.raises(TrainingDiverged, match=r"at step 6 \(.* is not finite\); the last good checkpoint is .*000003"):
        trainer(**OPTIONS).train()
    folder = RunFolder(tmp_path / "run")
    assert [path.name for path in folder.all_checkpoints()] == ["step-000003.safetensors"]
    assert fastgan.load(folder.path).step == 3 and folder.last_row()["step"] == 6
    assert Trainer.resume(folder.path, data=trainer(out="x").stream.images, lr=1e-5).train().step == 9


def test_goes_back_and_on_with_other_random_numbers(trainer, monkeypatch, tmp_path):
    trainer(**OPTIONS, out="whole").train()
    poisoned(monkeypatch, 2, 8)  # before the first checkpoint, and after the one of step 3
    with pytest.warns(FastganWarning) as said:
        result = trainer(**OPTIONS, on_nan="rollback").train()
    assert [str(one.message).split("; ")[1].split("/")[-1] for one in said] == [
        f"step-00000{step}.safetensors, and on with other random numbers (attempt {attempt} of 3)."
        for attempt, step in ((1, 0), (2, 3))
    ]
    assert result.step == 9
    rows = [json.loads(line) for line in RunFolder(result).metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10)) and all(None not in row.values() for row in rows)
    whole = json.loads(RunFolder(tmp_path / "whole").metrics.read_text().splitlines()[0])
    assert rows[0]["loss_d"] != whole["loss_d"]


def test_gives_up_after_three_times(trainer, monkeypatch):
    poisoned(monkeypatch, *range(1, 100))
    with (
        pytest.warns(FastganWarning, match=r"attempt [123] of 3"),
        pytest.raises(TrainingDiverged, match=r"3 times after going back; the last good checkpoint is .*000000"),
    ):
        trainer(**OPTIONS, on_nan="rollback").train()


@contextmanager
def room_for(size):
    """Inside, no file may grow beyond so many bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("short_of", ["the checkpoint", "a row"])
def test_a_disk_that_fills(trainer, tmp_path, monkeypatch, short_of):
    trainer(**OPTIONS, out="whole").train()
    folder = RunFolder(trainer(**OPTIONS | {"steps": 3}).train())
    before = {path.name: path.read_bytes() for path in (folder.checkpoint(3), folder.generator)}
    size = folder.checkpoint(3).stat().st_size - 1 if short_of == "the checkpoint" else 100
    with ExitStack() as full, monkeypatch.context() as patch:
        stopping(patch, 2, lambda: full.enter_context(room_for(size)))
        with pytest.raises(UserError, match=r"cannot be written \(File too large\); .* go on by `fastgan resume"):
            trainer(**OPTIONS | {"sample_every": 0}).train(resume=True)
    assert folder.all_checkpoints() == [folder.checkpoint(3)]
    assert {path.name: path.read_bytes() for path in (folder.checkpoint(3), folder.generator)} == before
    assert [path for path in folder.path.rglob(".*") if path != folder.lock] == []
    assert trainer(**OPTIONS).train(resume=True).step == 9
    assert_same_run(tmp_path / "whole", folder.path)


FLAGS = ["--batch-size", "4", "--width", "2", "--latent-dim", "4", "--image-size", "16", "--mirror", "--device", "cpu"]


def start(mode, number, arguments, folder):
    """fastgan in a process of its own that ends as killed.py says."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastgan.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("killed.py"), mode, str(number), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_inside_a_checkpoint(tmp_path, rule_of_sizes):
    flags = [*FLAGS, "--steps", "5", "--checkpoint-every", "2"]
    process = start(
        "half", 3, ["train", *flags, "--out", "run"], tmp_path
    )  # after the checkpoint and generator of step 2
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGKILL
    folder = RunFolder(tmp_path / "run")
    assert (folder.checkpoints / ".step-000004.safetensors.tmp").stat().st_size > 10_000
    Trainer.resume(folder.path).train()
    options = {"batch_size": 4, "width": 2, "latent_dim": 4, "image_size": 16, "mirror": True}
    whole = TrainConfig(out=str(tmp_path / "whole"), device="cpu", steps=5, checkpoint_every=2, **options)
    assert_same_run(Trainer(whole).train(), folder.path)
    assert not list(folder.path.rglob("*.tmp*"))


@pytest.mark.long
def test_bit_equal_after_twenty_kills(tmp_path):
    flags = [*FLAGS, "--steps", "500", "--checkpoint-every", "7", "--sample-every", "50", "--keep-checkpoints", "2"]
    assert start("half", 0, ["train", *flags, "--out", "whole"], tmp_path).wait() == 0
    modes = ["half"] * 4 + ["fsync"] * 4 + ["replace"] * 4 + ["KILL"] * 5 + ["TERM"] * 3
    chance = random.Random(0)
    chance.shuffle(modes)
    begins = ["train", *flags, "--out", "run", "--resume"]
    for index, mode in enumerate(modes):
        # A checkpoint and its generator are 2 files, 4 calls of fsync and 2 of replace.
        number = chance.randint(1, {"half": 6, "fsync": 12, "replace": 6}.get(mode, 20))
        resumes = index % 2 == 1 and RunFolder(tmp_path / "run").is_begun
        process = start(mode, number, ["resume", "run"] if resumes else begins, tmp_path)
        assert process.communicate()[1] == "" and process.returncode == (0 if mode == "TERM" else -signal.SIGKILL)
    assert start("half", 0, ["resume", "run"], tmp_path).wait() == 0
    log = (tmp_path / "killed.log").read_text()
    assert len(log.splitlines()) == 20 and log.count("run/checkpoints") >= 5, log
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    print(log)
