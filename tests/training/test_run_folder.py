import os

import pytest

from fastgan.errors import UserError
from fastgan.training.run_folder import RunFolder, newest_run, next_name


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_names_count_up(tmp_path):
    assert next_name("digits", "dcgan", (32, 32)) == "00000-digits-dcgan-32x32"
    for name in ("00002-digits-dcgan-32x32", "00007", "notes-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_name("my photos/2024", "dcgan", (48, 64)) == "00003-my-photos-2024-dcgan-48x64"
    assert next_name("..", "dcgan", (16, 16)) == "00003-images-dcgan-16x16"


def test_newest_run_has_a_generator():
    with pytest.raises(FileNotFoundError, match="there is no trained run"):
        newest_run()
    for index, trained in enumerate([True, True, False]):
        folder = RunFolder.create(f"runs/0000{index}-a-b-1x1")
        folder.config.write_text("{}")
        os.utime(folder.config, (index, index))
        if trained:
            folder.generator.touch()
    assert newest_run().name == "00001-a-b-1x1"


def test_takes_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunFolder.create("empty").samples.is_dir()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("full", "is not empty; choose another folder or remove it"),
        ("full/file", "is a file"),
        ("full/file/run", "cannot be written"),
        ("/proc/run", "cannot be written"),
    ],
)
def test_places_that_do_not_do(tmp_path, out, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    with pytest.raises(UserError, match=words) as caught:
        RunFolder.create(out)
    assert out in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "full" / "file").read_text() == "precious"


def test_checkpoints_in_order_of_steps():
    folder = RunFolder.create("run")
    for step in (1000000, 20, 3):
        folder.checkpoint(step).touch()
    (folder.checkpoints / ".step-000004.safetensors.tmp").touch()
    assert [path.name for path in folder.all_checkpoints()] == [
        f"step-{step}.safetensors" for step in ("000003", "000020", "1000000")
    ]
