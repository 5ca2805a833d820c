import os

import numpy as np
import pytest
from PIL import Image
from runs import write_run

import fastgan
from fastgan.images import image_grid
from fastgan.latents import path

# What stands in for ffmpeg: it keeps what it is told and given.
FFMPEG = """#!/bin/sh
printf '%s\\n' "$@" > arguments
for out; do :; done
cat > "$out"
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: write_run(folder / kind, kind) for kind in ("mlp", "mlp_conditional", "encoder_decoder")}


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Puts a program in ffmpeg's place."""

    def install(text):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "ffmpeg").write_text(text)
        (folder / "ffmpeg").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def frames_of(film):
    for index in range(film.n_frames):
        film.seek(index)
        yield np.asarray(film.convert("L")).astype(int)


@pytest.mark.parametrize(("flags", "pictures"), [([], 12), (["--no-loop"], 9)], ids=["loop", "line"])
def test_a_gif_of_the_walk(run, runs, flags, pictures):
    walk = ("--points", 3, "--steps", 4, "--tiles", 1, "--seed", 2, "--fps", 20)
    code, out, err = run("interpolate", runs["mlp"], *walk, *flags)
    assert (code, err) == (0, "") and out.startswith(f"interpolation.gif: {pictures} pictures of 1 walk by ")
    film = Image.open("interpolation.gif")
    assert film.n_frames == pictures and film.info["duration"] == 50 and film.info["loop"] == 0
    gan = fastgan.load(runs["mlp"])
    expected = gan.images_of(path(gan.latents(3, 2), 4, loop=not flags))
    for found, image in zip(frames_of(film), expected, strict=True):
        assert np.abs(found - np.asarray(image_grid(image[None]))).max() <= 2


def test_the_digits_that_come_with_fastgan(run):
    code, out, err = run("interpolate", "--points", 2, "--steps", 2, "--tiles", 1)
    assert (code, err) == (0, "") and out.startswith("this is the generator of digits that comes with fastgan; `")
    assert Image.open("interpolation.gif").n_frames == 4


def test_walks_side_by_side_keep_their_classes(run, runs):
    assert run("interpolate", runs["mlp_conditional"], "--points", 2, "--steps", 2, "--tiles", 4, "--no-loop")[0] == 0
    film = Image.open("interpolation.gif")
    gan = fastgan.load(runs["mlp_conditional"])
    start = image_grid(gan.images_of(gan.latents(8)[:4], label=[0, 1, 2, 0]))
    assert film.size == start.size and film.n_frames == 3
    white = Image.new("RGBA", start.size, "white")
    expected = np.asarray(Image.alpha_composite(white, start).convert("L")).astype(int)
    assert np.abs(next(frames_of(film)) - expected).mean() < 12  # a palette of 256 colours


def test_an_mp4_by_ffmpeg(run, runs, ffmpeg, tmp_path):
    ffmpeg(FFMPEG)
    walk = ("--points", 2, "--steps", 3, "--tiles", 1)
    assert run("interpolate", runs["mlp"], *walk, "--fps", 24, "--out", "film.mp4")[0] == 0
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-s") + 1] == "56x56" and arguments[arguments.index("-r") + 1] == "24"
    given = np.frombuffer((tmp_path / "film.mp4").read_bytes(), np.uint8).reshape(6, 56, 56, 3)
    gan = fastgan.load(runs["mlp"])
    first = np.asarray(image_grid(gan.images_of(gan.latents(2)[:1])).convert("RGB")).astype(int)
    assert np.abs(given[0] - first).max() <= 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\ncat > /dev/null\necho 'first' >&2\necho 'no encoder' >&2\nexit 1\n", "(no encoder)"),
        ("#!/bin/sh\nexit 3\n", "(it ended with 3)"),
    ],
    ids=["says why", "ends at once"],
)
def test_an_ffmpeg_that_fails(run, runs, ffmpeg, tmp_path, text, words):
    ffmpeg(text)
    code, _, err = run("interpolate", runs["mlp"], "--points", 2, "--out", "film.mp4")
    assert code == 2 and f"ffmpeg could not write the film {words}; give a name that ends in .gif" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_no_ffmpeg(run, runs, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = run("interpolate", runs["mlp"], "--out", "film.mp4")
    assert code == 2 and "film.mp4 needs ffmpeg, which is not installed; install it, or give a name" in err


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("mlp", "--out film.avi", "is not the name of a film; let it end in .gif or .mp4"),
        ("mlp", "--out missing/film.gif", "there is no folder missing"),
        ("mlp", "--points 10000 --steps 10000 --tiles 100", "100,000,000 pictures of 100 walks take at least "),
        ("mlp", "--points 1", "points must be a whole number of at least 2, but it is 1"),
        ("mlp", "--steps 0", "steps must be"),
        ("mlp", "--tiles 0", "tiles must be"),
        ("mlp", "--fps 0", "fps must be"),
        ("mlp", "--label 1", "was trained without classes"),
        ("mlp_conditional", "--label 7", "label must be a class from 0 to 2"),
        ("encoder_decoder", "", "encoder_decoder --source FOLDER` (in Python: translate())"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, runs, tmp_path, kind, arguments, words):
    code, out, err = run("interpolate", runs[kind], *arguments.split())
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
