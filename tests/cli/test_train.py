import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fastgan.cli import resume as resume_command
from fastgan.cli import train as train_command
from fastgan.training import PRESETS, TrainConfig
from fastgan.training._resume import CHANGEABLE

TINY = ["--steps", "2", "--batch-size", "4", "--width", "2", "--latent-dim", "4", "--device", "cpu"]


def config_of(folder):
    return TrainConfig.from_json(Path(folder, "config.json").read_text())


def test_every_setting_is_a_flag_and_those_that_may_change_are_resumes():
    settings = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(inspect.signature(train_command.train).parameters) == settings | {"resume", "config", "dry_run"}
    assert set(inspect.signature(resume_command.resume).parameters) == {"run", *CHANGEABLE}


def test_flag_before_file_before_preset_before_default(run):
    Path("run.toml").write_text(
        'preset = "cpu-quick"\nimage_size = 16\nlr_g = 1e-4\nlr_d = 1e-4\nepochs = 3\nseed = 5\n'
    )
    code, _, err = run("train", "--config", "run.toml", *TINY, "--lr", "1e-3", "--out", "run")
    assert (code, err) == (0, "")
    config = config_of("run")
    assert (config.width, config.steps, config.epochs, config.lr_g, config.lr_d) == (2, 2, None, 1e-3, 1e-3)  # flags
    assert (config.image_size, config.seed, config.preset) == (16, 5, "cpu-quick")  # the file
    assert config.sample_every == PRESETS["cpu-quick"]["sample_every"]
    assert (config.beta1, config.data, config.on_nan) == (0.5, "digits", "stop")

    # A run's own configuration is such a file too.
    code, *_ = run("train", "--config", "run/config.json", "--seed", "6", "--out", "again")
    assert code == 0 and config_of("again") == dataclasses.replace(config, seed=6)


def test_resume_begins_and_continues(run):
    flags = ["train", *TINY, "--checkpoint-every", "1", "--out", "run", "--resume"]
    code, out, err = run(*flags)
    assert (code, err) == (0, "") and "resumed" not in out
    code, out, err = run(*flags, "--steps", "3", "--image-size", "32x32", "--channels", "auto")
    assert (code, err) == (0, "") and "resumed after step 2" in out and config_of("run").steps == 3
    code, out, err = run("train", "--out", "run", "--resume")  # what is not said stays
    assert (code, err) == (0, "") and "which has all its 3 steps" in out and config_of("run").width == 2


def test_dry_run_writes_nothing(run):
    code, out, err = run("train", *TINY, "--dry-run")
    assert (code, err) == (0, "") and not Path("runs").exists()
    shown, _, report = out.partition("\n\n")
    assert TrainConfig.from_toml(shown).width == 2
    for word in ("generator 0.00 M parameters", "memory ", "GiB of this process", "ms a step", "nothing was written"):
        assert word in report


def test_not_finite_exits_with_3(run, monkeypatch):
    from fastgan.training import AdversarialStep

    step = AdversarialStep.__call__
    monkeypatch.setattr(AdversarialStep, "__call__", lambda self, real, *given: step(self, real * float("nan")))
    code, _, err = run("train", *TINY, "--out", "run")
    assert code == 3 and len(err.splitlines()) == 1 and "there was no checkpoint yet" in err
    assert "fastgan resume run" in err and not list(Path("run/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --out begun", "holds a run; choose another folder, or continue that run with --resume"),
        ("train --out begun --width 3 --resume", "width of the run begun is 2 and stays so"),
        ("train --resume", "out is not given; give the run's folder, or use `fastgan resume`"),
        ("train --preset faces", "preset must be one of digits, emoji, cpu-quick, images"),
        ("train --config missing.toml", "config is missing.toml, which cannot be read"),
        ("train --config wrong.toml", "wrong.toml: there is no setting 'batchsize'; did you mean 'batch_size'?"),
        ("train --config newer.json", "newer.json: the configuration is of format 2"),
        ("train --config latin.toml", "config is latin.toml, which is no UTF-8 text (invalid start byte); save it as"),
        ("train --on-nan ignore", "on_nan must be one of stop, rollback"),
        ("train --batch-size 5001", "batch_size is 5001, but digits has 5,000 images"),
        (
            "resume begun --width 3",
            "width of a run is fixed when it is begun; leave --width out, or begin a new one by `fastgan train`.",
        ),
        ("resume begun --batch-size=3", "batch_size of a run is fixed when it is begun; leave --batch-size out"),
        ("resume begun --no-mirror", "mirror of a run is fixed when it is begun; leave --no-mirror out"),
        ("resume begun --colour 3", "No such option: --colour"),
        ("resume begun --dry-run", "No such option: --dry-run"),
        ("resume begun --lr", "--lr"),
        ("resume begun --steps 1", "the run begun has 2 steps already, but is to end after 1; give --steps above 2"),
        ("resume .", ". is a folder, but not of a run (no config.json); give the folder of one"),
        ("train photos", "unexpected extra argument (photos); did you mean --data photos?"),
        ("train --steps 2 my photos", "unexpected extra argument (my photos); did you mean --data my?"),
        ("resume begun --on-nan ignore", "on_nan must be one of stop, rollback"),
        ("resume missing", "missing holds no run that could be read"),
        ("resume", "there is no run under"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, arguments, words):
    assert run("train", *TINY, "--out", "begun")[0] == 0
    before = Path("begun/metrics.jsonl").read_bytes()
    Path("wrong.toml").write_text("batchsize = 3")
    Path("latin.toml").write_bytes('data = "für"'.encode("latin-1"))
    Path("newer.json").write_text('{"format": 2, "whatever": 3}')
    code, out, err = run(*arguments.split())
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err and not Path("runs").exists()
    assert Path("begun/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["train", "resume"])
def test_help_says_what_goes_first_without_torch(command):
    code = "import sys; from fastgan.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "False"
    if command == "train":
        assert "the file before the preset, the preset before the defaults" in " ".join(ended.stdout.split())
