import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastgan
from fastgan.training.interrupt import Interrupt
from fastgan.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def hangups_count():
    """Under nohup this process would ignore them, and so would those that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_sets_a_name_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), number)
        assert interrupt and interrupt.name == ("Ctrl-C" if number == signal.SIGINT else number.name)
        # A second one is not held back, but for the two that one closed terminal sends.
        assert (signal.getsignal(number) is before) == (number != signal.SIGHUP)
    assert signal.getsignal(number) is before


def test_nohup_keeps_its_promise():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_take_no_signals():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def enter():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_ends_with_a_checkpoint(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(Path(fastgan.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    flags = ["--steps", "1000000", "--batch-size", "4", "--width", "2", "--device", "cpu", "--out", "run"]
    with subprocess.Popen(
        [sys.executable, "-m", "fastgan", "train", *flags],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step "):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'} after step" in out
    folder = RunFolder(tmp_path / "run")
    steps = len(folder.metrics.read_text().splitlines())
    assert json.loads(folder.metrics.read_text().splitlines()[-1])["step"] == steps
    assert folder.all_checkpoints() == [folder.checkpoint(steps)]
    assert fastgan.load(folder.path).step == steps and folder.sample(steps).is_file()


def test_a_closed_terminal_leaves_a_checkpoint(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(fastgan.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    flags = ["--steps", "1000000", "--batch-size", "4", "--width", "2", "--device", "cpu", "--out", "run"]
    process, terminal = pty.fork()
    if process == 0:  # with the terminal as its own
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "-m", "fastgan", "train", *flags], environment)
    seen = b""
    while b"images/s" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(process, 0)
    folder = RunFolder(tmp_path / "run")
    assert folder.all_checkpoints() == [folder.checkpoint(folder.last_row()["step"])]
