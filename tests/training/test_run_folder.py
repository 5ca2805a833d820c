import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan.errors import FastganWarning, UserError
from fastgan.training.run_folder import RunFolder, check_free, known_runs, newest_run, next_name


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_names_count_up(tmp_path):
    assert next_name("digits", "dcgan", (32, 32)) == "00000-digits-dcgan-32x32"
    for name in ("00002-digits-dcgan-32x32", "00007", "notes-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_name("my photos/2024", "dcgan", (48, 64)) == "00003-my-photos-2024-dcgan-48x64"
    assert next_name("..", "dcgan", (16, 16)) == "00003-images-dcgan-16x16"


def begin(path):
    folder = RunFolder(path)
    with folder.in_use():
        folder.prepare("{}", 0)
    return folder


def test_newest_run():
    with pytest.raises(FileNotFoundError, match="there is no trained run"):
        newest_run()
    with pytest.raises(FileNotFoundError, match="there is no run"):
        newest_run(trained=False)
    for index, trained in enumerate([True, True, False]):
        folder = begin(f"runs/0000{index}-a-b-1x1")
        os.utime(folder.config, (index, index))
        if trained:
            folder.generator.touch()
    assert newest_run().name == "00001-a-b-1x1"
    assert newest_run(trained=False).name == "00002-a-b-1x1"
    os.utime("runs/00000-a-b-1x1/config.json", (9, 9))  # as a copy may do it
    assert newest_run(trained=False).name == "00002-a-b-1x1"
    mine, older = begin("runs/mine"), begin("runs/older")
    for seconds, folder in ((8, older), (10, mine)):
        os.utime(folder.config, (seconds, seconds))
    older.prepare('{"steps": 9}', 0)  # to go on is not to begin
    assert [path.name[:5] for path in known_runs(trained=False)] == ["mine", "00002", "00001", "00000", "older"]


def test_takes_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").touch()
    check_free(tmp_path / "empty")
    assert begin("empty").samples.is_dir() and (tmp_path / "empty" / ".hidden").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("full", "is not empty; choose another folder or remove it"),
        ("full/file", "is a file"),
        ("full/file/run", "cannot be written"),
        ("run", "holds a run; choose another folder, or continue that run with --resume"),
    ],
)
def test_places_that_do_not_do(tmp_path, out, words):
    begin("run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    with pytest.raises(UserError, match=words) as caught:
        check_free(Path(out))
    assert out in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "full" / "file").read_text() == "precious"


def test_a_place_that_cannot_be_made():
    with pytest.raises(UserError, match=r"/proc/run, which cannot be written"), RunFolder("/proc/run").in_use():
        pass


def test_checkpoints_in_order_of_steps():
    folder = begin("run")
    for step in (1000000, 20, 3):
        folder.checkpoint(step).touch()
    for name in (".step-000004.safetensors.tmp", "step-000005.safetensors.damaged"):
        (folder.checkpoints / name).touch()
    assert [path.name for path in folder.all_checkpoints()] == [
        f"step-{step}.safetensors" for step in ("000003", "000020", "1000000")
    ]


def test_a_folder_in_use_names_the_process():
    with (
        RunFolder("run").in_use(),
        pytest.raises(UserError, match=f"run is in use by process {os.getpid()};"),
        RunFolder("run").in_use(),
    ):
        pass
    with RunFolder("run").in_use():  # it was let go
        pass


def test_a_killed_process_lets_go_of_its_folder():
    code = """
import os, signal
from fastgan.training.run_folder import RunFolder
with RunFolder("run").in_use():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastgan.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    assert RunFolder("run").lock.read_text() not in ("", str(os.getpid()))
    with RunFolder("run").in_use():
        assert RunFolder("run").lock.read_text() == str(os.getpid())


def test_without_locks_it_warns(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(FastganWarning, match="has no locks"), RunFolder("unlocked").in_use():
        pass


def test_prepares_a_folder_that_a_kill_has_left():
    folder = begin("run")
    left = [folder.path / ".config.json.tmp", folder.samples / ".real.tmp.png", folder.checkpoints / ".x.tmp"]
    for path in left:
        path.touch()
    folder.prepare('{"seed": 1}', 0)
    assert not any(path.exists() for path in left) and folder.config.read_text() == '{"seed": 1}'


@pytest.mark.parametrize("torn", ["", '{"step": 4, "lo', "\0\0\0\0\n", '{"step": 4}', "12\n"])
def test_rows_after_the_checkpoint_go(torn):
    folder = begin("run")
    assert folder.last_row() == {}
    folder.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3)) + torn)
    folder.cut_rows(9)
    assert folder.last_row() == {"step": 3}
    folder.cut_rows(2)
    assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'
    folder.cut_rows(0)
    assert folder.metrics.read_text() == ""
