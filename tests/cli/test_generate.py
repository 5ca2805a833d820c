import resource

import numpy as np
import pytest
from PIL import Image
from runs import write_run

import fastgan
from fastgan.data import to_uint8
from fastgan.training.checkpoint import read_tensors, write_tensors


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: write_run(folder / kind, kind) for kind in ("mlp", "mlp_conditional", "encoder_decoder")}


def pixels(images):
    return to_uint8(images).permute(0, 2, 3, 1).squeeze(-1).numpy()


def test_a_picture_of_all(run, runs, tmp_path):
    code, out, err = run("generate", runs["mlp"], "--count", 6)
    assert (code, err) == (0, "") and out.startswith("grid.png: 6 images by ") and "seed 0" in out
    assert Image.open("grid.png").size == (2 * (28 * 2 + 2) - 2, 3 * (28 * 2 + 2) - 2)


@pytest.mark.parametrize(
    "out, names",
    [
        ("faces/", ["faces/00.png", "faces/07.png", "faces/11.png"]),
        ("there", ["there/00.png", "there/11.png"]),
        ("face-{}.png", ["face-00.png", "face-11.png"]),
    ],
)
def test_single_files(run, runs, tmp_path, out, names):
    (tmp_path / "there").mkdir()
    assert run("generate", runs["mlp"], "--count", 12, "--seed", 5, "--out", out)[0] == 0
    expected = pixels(fastgan.load(runs["mlp"]).generate(12, seed=5))
    for name in names:
        found = np.asarray(Image.open(name)).astype(int)
        assert np.abs(found - expected[int(name[-6:-4])]).max() <= 1
    assert len(list(tmp_path.rglob("*.png"))) == 12


def test_an_array(run, runs):
    flags = ("--count", 5, "--label", 2, "--truncation", 1.5, "--out", "faces.npy")
    assert run("generate", runs["mlp_conditional"], *flags)[0] == 0
    found = np.load("faces.npy")
    assert found.dtype == np.float32 and found.shape == (5, 4, 20, 17)
    gan = fastgan.load(runs["mlp_conditional"])
    np.testing.assert_allclose(found, gan.generate(5, label=2, truncation=1.5).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("label", "number"),
    [("cat", 0), ("dog", 1), ("0", 2), ("1", 1)],
    ids=["name", "another name", "a name of digits", "number"],
)
def test_a_class_by_its_name_or_number(run, runs, tmp_path, label, number):
    weights, described = read_tensors(runs["mlp_conditional"] / "generator.safetensors", "generator")
    write_tensors(tmp_path / "named.safetensors", weights, {**described, "classes": ["cat", "dog", "0"]})
    assert run("generate", "named.safetensors", "--count", 3, "--label", label, "--out", "made.npy")[0] == 0
    expected = fastgan.load(runs["mlp_conditional"]).generate(3, label=number)
    np.testing.assert_allclose(np.load("made.npy"), expected.numpy(), rtol=0, atol=1e-5)
    code, _, err = run("generate", "named.safetensors", "--label", "cow")
    assert code == 2 and "label must be a class from 0 to 2 (0 cat, 1 dog, 2 0), or 64 of them, but it is 'cow'" in err


def test_each_row_is_of_one_class(run, runs):
    assert run("generate", runs["mlp_conditional"], "--count", 6, "--out", "classes/")[0] == 0
    expected = pixels(fastgan.load(runs["mlp_conditional"]).generate(6, label=[0, 0, 1, 1, 2, 2]))
    for index in range(6):
        assert np.abs(np.asarray(Image.open(f"classes/{index}.png")).astype(int) - expected[index]).max() <= 1
    assert run("generate", runs["mlp_conditional"], "--count", 6)[0] == 0
    assert Image.open("grid.png").size == (2 * (17 * 3 + 2) - 2, 3 * (20 * 3 + 2) - 2)


def test_a_disk_that_fills_leaves_an_older_array_alone(run, runs, tmp_path, monkeypatch):
    (tmp_path / "faces.npy").write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        code, _, err = run("generate", runs["mlp"], "--out", "faces.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2 and "out is faces.npy, which cannot be written (File too large)" in err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("mlp", "--label 1", "label is 1, but"),
        ("mlp_conditional", "--label 3", "label must be a class from 0 to 2"),
        ("mlp_conditional", "--label -1", "label must be a class from 0 to 2, or 64 of them, but it is -1"),
        ("mlp_conditional", "--label two", "label must be a class from 0 to 2, or 64 of them, but it is 'two'"),
        ("mlp", "--truncation 0", "truncation must be a number above 0"),
        ("mlp", "--truncation much", "'much' is not a number"),
        ("mlp", "--count 0", "count must be a whole number of at least 1, but it is 0"),
        ("encoder_decoder", "--source photos --count 0", "count must be a whole number of at least 1, but it is 0"),
        ("mlp", f"--count {10**12}", "1,000,000,000,000 images take at least "),
        ("mlp_conditional", f"--count {10**12}", "of memory, and this machine has "),
        ("mlp", "--out=", "'--out': it is empty; give the path to write to, or leave it out"),
        ("mlp", "--out grid.txt", "not the name of a picture"),
        ("mlp", "--out missing/faces/", "there is no folder missing"),
        ("mlp", "--out missing/faces.npy", "there is no folder missing"),
        ("mlp_conditional", "--out rgba.jpg", "cannot be written (cannot write mode RGBA as JPEG)"),
        ("encoder_decoder", "--source photos --label 2", "label is 2, but "),
        ("encoder_decoder", "--source photos --truncation 1", "truncation is 1.0, but "),
        ("encoder_decoder", "--source photos --seed 3", "makes images of images; leave it out"),
        ("encoder_decoder", "", "makes images of images; give it some by --source"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, runs, tmp_path, kind, arguments, words):
    code, out, err = run("generate", runs[kind], *arguments.split())
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_digits_that_come_with_fastgan(run):
    code, out, err = run("generate", "--count", 4)
    assert (code, err) == (0, "") and Image.open("grid.png").size == (2 * (32 * 2 + 2) - 2,) * 2
    first, second = out.splitlines()
    assert first.startswith("this is the generator of digits that comes with fastgan; `")
    assert first.endswith(" train` makes your own") and second.startswith("grid.png: 4 images by ")


def test_a_run_goes_before_the_digits_that_come_with_fastgan(run, tmp_path):
    write_run(tmp_path / "runs" / "00000-noise-mlp-28x28", "mlp")
    code, out, _ = run("generate")
    assert code == 0 and out.startswith("grid.png: 64 images by runs/00000-noise-mlp-28x28 (step 7)")
    assert run("generate", "digits")[1].startswith("this is the generator of digits that comes with fastgan")


def test_what_is_no_run_exits_with_2(run, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.safetensors").write_text("nonsense")
    weights, described = read_tensors(runs["mlp"] / "generator.safetensors", "generator")
    write_tensors(tmp_path / "other.safetensors", weights, {**described, "kind": "checkpoint"})
    dcgan = {"family": "dcgan", "image_size": 28, "channels": 1}
    write_tensors(tmp_path / "mixed.safetensors", weights, {**described, "generator": dcgan})
    for path, words in (
        ("empty", "no generator.safetensors in empty"),
        ("missing", "there is no run missing"),
        ("file.safetensors", "damaged or no safetensors file"),
        ("other.safetensors", "is not a generator of fastgan"),
        ("mixed.safetensors", "does not fit the network DCGANGenerator"),
    ):
        code, _, err = run("generate", path)
        assert code == 2 and words in err and len(err.splitlines()) == 1


def test_a_run_that_may_not_be_read_is_named(run, runs, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    sentence = f"{runs['mlp']} cannot be read (Permission denied); change its permissions or give another run."
    assert run("generate", runs["mlp"]) == (2, "", f"fastgan: {sentence}\n")


def test_images_are_made_of_images(run, runs, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        Image.new("L", (40, 40), 80 * index).save(tmp_path / "photos" / f"{index}.png")
    code, out, err = run("generate", runs["encoder_decoder"], "--source", "photos", "--count", 2, "--out", "made.npy")
    assert (code, err) == (0, "") and "made.npy: 2 images by" in out and "of photos" in out
    assert np.load("made.npy").shape == (2, 3, 28, 36)


def test_an_image_is_made_of_one_file(run, runs, tmp_path):
    Image.new("L", (40, 40), 80).save(tmp_path / "photo.JPG")
    code, out, err = run("generate", runs["encoder_decoder"], "--source", "photo.JPG", "--out", "made.npy")
    assert (code, err) == (0, "") and "made.npy: 1 image by" in out and "of photo.JPG" in out
    assert np.load("made.npy").shape == (1, 3, 28, 36)


def test_latents_take_no_source(run, runs):
    code, _, err = run("generate", runs["mlp"], "--source", "photos")
    assert code == 2 and "makes its images of latents; leave it out" in err and err.count("\n") == 1
