import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.images import image_grid, save_image
from fastgan.training import TrainConfig
from fastgan.training.chart import Canvas, Chart, summarised
from fastgan.training.run_folder import RunFolder
from fastgan.training.run_picture import draw_run
from fastgan.training.step import METRICS

ALARM = {"alarm": "generator collapsed", "measured": 0.0}


@pytest.fixture
def folder(tmp_path):
    """Makes run folders of so many steps; ``values`` are those of every row."""

    def make(steps=20, alarms=(), samples=3, name="run", channels=1, values=None, **config):
        made = RunFolder(tmp_path / name)
        made.samples.mkdir(parents=True)
        made.config.write_text(TrainConfig(**{"image_size": (16, 24), **config}).resolved().to_json())
        rows = [{"step": step, **(values or dict.fromkeys(METRICS, step / steps))} for step in range(1, steps + 1)]
        made.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.health.write_text("".join(json.dumps(row) + "\n" for row in alarms))
        for step in range(samples):
            grid = image_grid(torch.full((64, channels, 16, 24), step / 4))
            save_image(grid, made.sample(step * 10))
        if samples:
            save_image(image_grid(torch.ones(64, channels, 16, 24)), made.samples / "real.png")
        return made

    return make


def redness(picture):
    """How many pixels are redder than blue, by column, of the two charts."""
    pixels = np.asarray(picture, dtype=int)[150:650]
    return (pixels[..., 0] > pixels[..., 2] + 8).sum(0)


def test_an_alarm_is_marked_from_its_first_step_to_its_end(folder):
    raised = {**ALARM, "event": "raised", "since": 5, "step": 8}
    quiet, loud = folder(name="quiet"), folder(name="loud", alarms=[raised])
    over = folder(name="over", alarms=[raised, {**ALARM, "event": "over", "since": 5, "step": 15}])
    none, standing, ended = (redness(draw_run(one)) for one in (quiet, loud, over))
    columns = {step: 64 + 1272 * (step - 0) // 20 + 4 for step in (3, 10, 17)}
    assert standing[columns[3]] < 300 < min(standing[columns[10]], standing[columns[17]])
    assert max(none[columns[10]], ended[columns[17]]) < 300 < ended[columns[10]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_strip_shows_the_samples_and_real_images(folder, channels):
    picture = draw_run(folder(channels=channels))
    tones = [round((value + 1) * 127.5) for value in (0, 0.25, 0.5, 1)]
    if channels == 4:  # as transparent as they are dark, on white
        tones = [round(tone * tone / 255 + 255 - tone) for tone in tones]
    found = {pixel for pixel in np.unique(np.asarray(picture.convert("L"))[770:]).tolist()}
    assert picture.mode == "RGB" and set(tones) <= found


def test_many_samples_are_thinned_out(folder):
    assert draw_run(folder(samples=30)).size == draw_run(folder(samples=1, name="one")).size


@pytest.mark.parametrize(
    ("options", "height"),
    [
        ({"steps": 1, "samples": 0}, 720),
        ({"values": dict.fromkeys(METRICS)}, 1054),
        ({"values": dict.fromkeys(METRICS, 1e9)}, 1054),
        ({"values": dict.fromkeys(METRICS, -3.0), "loss": "minimax"}, 1054),
        ({"image_size": (256, 16)}, 1054),
        ({"data": "/a/very/long/path" * 10}, 1054),
    ],
)
def test_odd_runs_are_drawn_too(folder, options, height):
    assert draw_run(folder(**options)).size == (1400, height)


def test_a_run_that_is_stopped_has_its_picture(trainer, monkeypatch):
    class Progress:
        def update(self, row):
            if row["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def close(self):
            pass

    monkeypatch.setattr("fastgan.training.trainer.progress_on", lambda *_: Progress())
    result = trainer(steps=9, sample_every=2).train()
    assert result.stopped_by == "Ctrl-C" and Image.open(RunFolder(result.folder).picture).size[0] == 1400


def test_a_curve_is_the_mean_of_what_is_finite():
    steps = np.arange(1.0, 10_001)
    values = np.where(steps % 7 == 0, math.nan, 0.25)
    curve = summarised(steps, values)
    assert len(curve.steps) == 400 and np.all(np.diff(curve.steps) > 0)
    for part in (curve.middle, curve.low, curve.high):
        np.testing.assert_allclose(part, 0.25)
    alternating = summarised(steps, steps % 2)
    np.testing.assert_allclose(alternating.middle, 0.5, atol=0.05)
    assert alternating.low.max() == 0 and alternating.high.min() == 1


def test_a_chart_puts_a_level_in_its_place():
    canvas = Canvas(200, 150)
    chart = Chart(canvas, (20, 10), (160, 100), (0, 10), (0, 1))
    chart.grid()
    chart.level(0.25, "a quarter", "#ff0000")
    pixels = np.asarray(canvas.finished(), dtype=int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 100)
    rows = np.flatnonzero(red[:, 20:180].any(1))
    assert abs(rows.mean() - 85) <= 1
