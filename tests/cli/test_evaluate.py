import json
from pathlib import Path

import pytest
from PIL import Image
from runs import write_run

import fastgan
from fastgan.evaluation import evaluate
from fastgan.images import save_image, to_image
from fastgan.training import TrainConfig


def real_images(folder, kind="dcgan", n=100):
    """A folder of images, and a run that was trained on them."""
    gan = fastgan.load(write_run(folder / "runs" / "00000-noise", kind))
    (folder / "photos").mkdir()
    for index, image in enumerate(gan.generate(n, seed=9)):
        save_image(to_image(image), folder / "photos" / f"{index:03d}.png")
    (gan.path / "config.json").write_text(TrainConfig(data=str(folder / "photos")).to_json())
    return gan


def test_a_run_is_evaluated(run, tmp_path):
    gan = real_images(tmp_path)
    code, out, err = run("evaluate", "--samples", 48, "--seed", 2)
    assert code == 0 and "48 images are few for 64 features" in err and err.count("\n") == 1
    found = json.loads(Path("runs/00000-noise/evaluation.json").read_text())
    expected = evaluate(gan, str(tmp_path / "photos"), samples=48, seed=2)
    assert found["generated"] == expected.generated and found["protocol"] == expected.protocol
    lines = [line.split() for line in out.splitlines()]
    assert ["run", "runs/00000-noise", "(step", "7),", "48", "images,", "seed", "2"] in lines
    assert "no value is an FID" in out and "real: what a perfect generator would get" in out
    values = [f"{of['precision']:.3f}" for of in (found["generated"], found["real"])]
    assert ["precision", *values, "high"] in lines
    assert any(line[:2] == ["kernel", "distance"] and line[3] == "±" for line in lines)
    assert Image.open("runs/00000-noise/nearest.png").mode == "L" and "nearest.png" in out


def test_comparable_runs_are_compared(run, tmp_path):
    real_images(tmp_path)
    assert run("evaluate", "--samples", 48)[0] == 0
    code, out, _ = run("evaluate", "--samples", 48, "--truncation", 0.5, "--compare", "runs/00000-noise", "--json", "b")
    assert code == 0 and "compared  runs/00000-noise (step 7), seed 0" in out and "…" not in out
    first, second = (json.loads(Path(name).read_text()) for name in ("runs/00000-noise/evaluation.json", "b"))
    row = [f"{of['recall']:.3f}" for of in (second["generated"], first["generated"], second["real"])]
    assert ["recall", *row, "high"] in [line.split() for line in out.splitlines()]
    assert run("evaluate", "--samples", 48, "--compare", "b")[0] == 0
    code, out, err = run("evaluate", "--samples", 40, "--compare", "b")
    assert code == 2 and "cannot be compared, because they differ in images reference 60 and 52" in err
    assert json.loads(Path("runs/00000-noise/evaluation.json").read_text())["truncation"] is None


def test_a_file_of_a_generator_takes_data_and_writes_where_it_is_told(run, tmp_path):
    gan = real_images(tmp_path)
    (gan.path / "generator.safetensors").rename(tmp_path / "alone.safetensors")
    code, out, err = run("evaluate", "alone.safetensors")
    assert code == 2 and "does not say where the images are" in err
    code, out, _ = run("evaluate", "alone.safetensors", "--data", "photos", "--all-real", "--json", "values.json")
    assert code == 0 and "values    values.json" in out and "perfect generator" not in out
    assert json.loads(Path("values.json").read_text())["real"] == {}
    assert not list(tmp_path.glob("*.png"))


def test_values_that_are_written_nowhere_are_told_so(run, tmp_path):
    real_images(tmp_path)
    (tmp_path / "runs" / "00000-noise" / "generator.safetensors").rename("alone.safetensors")
    code, out, _ = run("evaluate", "alone.safetensors", "--data", "photos")
    assert code == 0 and out.splitlines()[-1] == "values    not written; give --json FILE"
    assert not list(tmp_path.glob("*.json"))


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_values_that_cannot_be_written_in_the_end_are_told_all_the_same(run, tmp_path, monkeypatch):
    real_images(tmp_path)
    monkeypatch.setattr("fastgan.training.run_folder.write_text", refuse)
    code, out, err = run("evaluate")
    assert code == 2 and "kernel distance" in out
    assert err.splitlines()[-1].startswith("fastgan: the values cannot be written into runs/00000-noise (Permission")


@pytest.mark.parametrize(
    ("json", "place"), [((), "runs/00000-noise"), (("--json", "photos/values.json"), "photos")], ids=["run", "file"]
)
def test_a_folder_that_cannot_be_written_is_told_before_any_work(run, tmp_path, monkeypatch, json, place):
    real_images(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("fastgan.evaluation.evaluate", lambda *_, **__: pytest.fail("it measures"))
    code, _, err = run("evaluate", *json)
    assert code == 2 and err == (
        f"fastgan: the values cannot be written into {place} (Permission denied); give another place by --json FILE.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("missing", "there is no run missing"),
        ("--data missing", "missing does not exist; give a folder"),
        ("--samples 51", "give at most 50, or all_real (--all-real)"),
        ("--samples many", "'many' is not a whole number"),
        ("--features missing.pt2", "features is missing.pt2, but there is no such file"),
        ("--weights file", "weights are those of features 'inception'"),
        ("--compare missing", "compare is missing, but there is no run or file missing; give a run that was evaluated"),
        ("--compare digits", " evaluate digits --json digits.json`, and give digits.json."),
        ("--compare photos", "there is no photos/evaluation.json; evaluate that run first"),
        ("--compare runs/00000-noise/config.json", "config.json: the text is no evaluation of format 1"),
        ("--json missing/values.json", "json is missing/values.json, but there is no folder missing"),
        ("--json photos", "json is photos, which is a folder; give the name of a file"),
        ("--json /dev/full", "json is /dev/full, which is a device or a pipe; give the name of a file"),
        ("--json=", "'--json': it is empty; give the path to write to, or leave it out"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, tmp_path, arguments, words):
    real_images(tmp_path)
    code, _, err = run("evaluate", *arguments.split())
    assert code == 2 and words in err and err.splitlines()[-1].startswith("fastgan: ") and "Traceback" not in err
    assert not Path("runs/00000-noise/evaluation.json").exists()


def test_a_run_of_images_of_images_is_refused(run, tmp_path):
    write_run(tmp_path / "pairs", "encoder_decoder")
    code, _, err = run("evaluate", "pairs", "--data", "digits")
    assert code == 2 and err.count("\n") == 1
    assert "not as sets; apply it by `fastgan generate pairs --source FOLDER` (in Python: translate())" in err
