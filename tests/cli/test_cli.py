import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import write_run

from fastgan import cli
from fastgan.training import TrainConfig

TINY = ["--steps", "2", "--batch-size", "4", "--width", "2", "--latent-dim", "4", "--device", "cpu"]


def test_train_then_generate(run):
    code, out, err = run("train", *TINY)
    assert (code, err) == (0, "")
    folder = "runs/00000-digits-dcgan-32x32"
    assert f"before  {folder}/samples/step-000000.png" in out and f"after   {folder}/samples/step-000002.png" in out
    assert f"generate {folder} --count 64 --seed 0 --out grid.png" in out and f"evaluate {folder}" in out
    for line in out.splitlines():
        if line.startswith(("before", "after", "real ", "picture")):
            assert Path(line.split()[1]).is_file()

    code, out, err = run("train", *TINY, "--image-size", "16x20", "--out", "mine")
    assert (code, err) == (0, "") and "16x20" in out
    code, out, err = run("generate", "--count", "6")
    assert (code, err) == (0, "") and folder in out and Image.open("grid.png").mode == "L"
    grids = []
    for name in ("a.png", "b.png"):
        assert run("generate", "mine", "--count", 4, "--seed", 7, "--out", name)[0] == 0
        grids.append(Path(name).read_bytes())
    assert grids[0] == grids[1]


def test_flags_reach_the_configuration(run):
    from fastgan.training import TrainConfig

    flags = [*TINY, "--image-size", "16", "--mirror", "--lr", "1e-3", "--lr-d", "5e-4", "--beta1", "0", "--seed", "3"]
    code, *_ = run("train", *flags, "--channels", "3", "--workers", "2", "--precision", "fp32", "--out", "run")
    assert code == 0
    config = TrainConfig.from_json(Path("run/config.json").read_text())
    assert (config.image_size, config.mirror, config.channels, config.workers) == (16, True, 3, 2)
    assert (config.lr_g, config.lr_d, config.beta1, config.seed, config.precision) == (1e-3, 5e-4, 0.0, 3, "fp32")
    assert (config.steps, config.epochs, config.width) == (2, None, 2)


def test_flags_of_the_objective_reach_the_configuration(run):
    from fastgan.training import TrainConfig

    flags = "--loss wgan_gp --d-steps 2 --accumulate 2 --penalty-weight 5 --r1-every 4 --spectral-norm --precision fp16"
    assert run("train", *TINY, *flags.split(), "--label-smoothing", "0", "--r1-gamma", "0", "--out", "run")[0] == 0
    config = TrainConfig.from_json(Path("run/config.json").read_text())
    assert (config.loss, config.d_steps, config.accumulate, config.penalty_weight) == ("wgan_gp", 2, 2, 5.0)
    assert (config.r1_gamma, config.r1_every, config.spectral_norm, config.precision) == (0.0, 4, True, "fp16")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --image-size 8", "image_size 8x8"),
        ("train --image-size 0", "image_size must be pixels, one number or height and width, 16 to 256 for"),
        ("train --image-size 64x", "is not a size"),
        ("train --seed abc", "'--seed': 'abc' is not a whole number; give for example 0."),
        ("train --epochs abc", "'--epochs': 'abc' is not a number; give for example 8."),
        ("train --lr abc", "'--lr': 'abc' is not a number; give for example 2e-4."),
        ("train --workers -1", "workers must be a whole number of at least 1, or auto, but it is -1"),
        ("train --image-size big", "is not a size"),
        ("train --batch-size none", "'--batch-size': 'none' is not a whole number"),
        ("train --lr fast", "'fast' is not a number"),
        ("train --batch-size 0", "batch_size must be"),
        ("train --loss wgan", "loss must be one of non_saturating, minimax, hinge, least_squares, wgan_gp"),
        ("train --loss wgan_gp --r1-gamma 1", "has a gradient penalty of its own"),
        ("train --accumulate 7", "batch_size 32 cannot be cut into 7 micro-batches"),
        ("train --channels two", "neither a whole number nor auto"),
        ("train --channels 2", "channels must be one of"),
        ("train --steps 2 --epochs 2", "both given"),
        ("train --learning-rate 1", "--learning-rate"),
        ("train --model nonsense", "model 'nonsense' is unknown"),
        ("train --device nonsense", "device must be"),
        ("train --data missing", "fastgan: missing does not exist; give a folder, a .zip, "),
        ("train --data missing.zip", "fastgan: missing.zip does not exist; give a folder, a .zip, "),
        ("train --data foo:bar", "fastgan: foo:bar does not exist; give a folder, "),
        ("train --data empty", "empty holds no files"),
        ("train --out full", "is not empty; choose another folder or remove it"),
        ("train --out /proc/run", "cannot be written"),
        ("train --out full/file", "is a file"),
        ("nonsense", "nonsense"),
        ("generate missing", "there is no run missing"),
        ("generate empty", "no generator.safetensors in empty"),
        ("generate --out missing/grid.png", "there is no folder missing"),
        ("generate --out grid.txt", "not the name of a picture"),
        ("generate --count many", "'many' is not a whole number"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, arguments, words):
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/file").write_text("precious")
    code, out, err = run(*arguments.split())
    assert code == 2
    assert words in err and len(err.splitlines()) == 1 and err.startswith("fastgan: ")
    assert "Traceback" not in out + err
    assert Path("full/file").read_text() == "precious" and not Path("runs").exists()


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("fastgan.training.Trainer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.parametrize("command", ["train", "evaluate", "--help"])
def test_a_closed_pipe_is_no_mistake(tmp_path, command):
    """A run ends with a checkpoint, an evaluation keeps its values."""
    if command == "evaluate":
        gan = write_run(tmp_path / "run", "dcgan")
        (gan / "config.json").write_text(TrainConfig(data="digits").to_json())
    arguments = {
        "train": ["train", *TINY, "--steps", "1000000", "--out", "run"],
        "evaluate": ["evaluate", "run", "--samples", "400"],
        "--help": ["--help"],
    }[command]
    program = [sys.executable, "-m", "fastgan", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, **pipes, cwd=tmp_path, env=_environment(), text=True) as process:
        if command == "train":
            assert process.stdout.readline().startswith("data ")
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, "")
    if command == "train":
        (checkpoint,) = tmp_path.glob("run/checkpoints/*")
        assert 0 < int(checkpoint.stem.removeprefix("step-")) < 1000000
    assert command != "evaluate" or (tmp_path / "run" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("isa", "isas"), [("amx", "scalar, avx512, amx"), ("avx512", "scalar, avx512"), ("scalar", "scalar, avx512")]
)
def test_doctor_lists_what_was_built(run, monkeypatch, isa, isas):
    from fastgan import _native

    known = {**_native.info(), "cpu_isa": isa, "build": {"isas": ["scalar", "avx512"], "nvcc": ""}}
    monkeypatch.setattr(_native, "info", lambda: known)
    code, out, _ = run("doctor")
    assert code == 0 and [line.split(maxsplit=2)[1:] for line in out.splitlines() if line.startswith("build")] == [
        ["isas", isas],
        ["nvcc", "none"],
    ]


def test_doctor(run):
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("fastgan", "torch", "training", "_cpu", "_cuda"):
        assert any(line.split()[0] == name and len(line.split()) > 1 for line in out.splitlines())


def test_version_and_help(run):
    import fastgan

    assert run("--version") == (0, f"fastgan {fastgan.__version__}\n", "")
    for arguments in ([], ["--help"]):
        code, out, _ = run(*arguments)
        assert code == 0 and all(command in out for command in ("train", "generate", "bench", "doctor"))


def test_the_list_of_commands_cuts_no_sentence(run):
    _, out, _ = run("--help")
    listed = out.partition("Commands:")[2].splitlines()[1:]
    assert len(listed) == 10 and all(line.endswith(".") and "..." not in line for line in listed)


def test_help_imports_no_torch():
    code = "import sys; from fastgan.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert ended.stdout.splitlines()[-1] == "False" and ended.returncode == 0


@pytest.mark.parametrize("command", ["generate digits --count 2", f"train --dry-run {' '.join(TINY)}"])
def test_a_cold_start_imports_without_looking_for_garbage(tmp_path, command):
    code = (
        "import gc, sys; from fastgan.cli import main\n"
        f"try: main({command.split()})\n"
        "finally: print(gc.isenabled(), gc.get_freeze_count() > 50_000)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), cwd=tmp_path
    )
    assert ended.stdout.splitlines()[-1] == "True True", ended.stderr


def _environment():
    import fastgan

    return {**os.environ, "PYTHONPATH": str(Path(fastgan.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
