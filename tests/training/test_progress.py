import io

import pytest
import rich
from rich.console import Console

from fastgan.training.progress import LiveProgress, PlainProgress

ROW = {
    "step": 600,
    "epoch": 3.8,
    "images_per_second": 1057.3,
    "loss_d": 1.126,
    "loss_g": None,
    "d_real": 0.57,
    "d_fake_before": 0.39,
    "d_fake_after": 0.26,
}


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 80 columns is shown."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(rich, "_console", console)
    return shown


def test_the_display_shows_numbers_and_standing_alarms(terminal):
    progress = LiveProgress(1250)
    progress.update(ROW)
    shown = terminal.getvalue()
    for part in ("600/1250", "1,057 images/s", "left", "loss D 1.126 G nan", "D(x) 0.57", "D(G(z)) 0.39/0.26"):
        assert part in shown
    progress.warn("generator collapsed since step 50: so and so.", ["generator collapsed since step 50"])
    progress.update(ROW | {"step": 700})
    assert "alarm  generator collapsed since step 50: so and so." in terminal.getvalue()
    drawn = terminal.getvalue().rpartition("700/1250")[2]
    assert "alarm: generator collapsed since step 50" in drawn
    progress.warn("generator collapsed since step 50: over at step 750.", [])
    progress.close()
    assert "alarm: " not in terminal.getvalue().rpartition("over at step 750.")[2]


def test_plain_lines(capsys):
    progress = PlainProgress(1250, interval=60)
    progress.update(ROW)
    progress.update(ROW | {"step": 601})  # too soon
    progress.warn("generator collapsed", ["generator collapsed"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 600/1250  loss D 1.126") and "1,057 images/s" in first
    assert second == "alarm  generator collapsed"
