"""``fastgan pack``, and training from what it makes."""

from pathlib import Path

import pytest
from PIL import Image

from fastgan.training import TrainConfig

TINY = ["--steps", "2", "--batch-size", "4", "--width", "2", "--latent-dim", "4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def photos(tmp_path):
    for index in range(6):
        path = Path(tmp_path, "photos", "cat" if index % 2 else "dog", f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (40 * index, 0, 0)).save(path)


def test_pack_then_train(run):
    code, out, err = run("pack", "photos", "--image-size", "16x20", "--workers", "2")
    assert (code, err) == (0, "")
    assert "photos-16x20.pack: 6 images, 16x20, channels=3, 0.0 MiB" in out and "train --data photos-16x20.pack" in out
    code, out, err = run("train", "--data", "photos-16x20.pack", *TINY, "--cache", "memory", "--out", "run")
    assert (code, err) == (0, "") and "photos: 6 images, 16x20, channels=3" in out
    assert "generate run" in out and "evaluate" not in out  # of six images there is nothing to say
    config = TrainConfig.from_json(Path("run/config.json").read_text())
    assert config.image_size == (16, 20) and config.cache == "memory"


def test_pack_takes_its_options(run):
    options = ["--image-size", "16", "--channels", "1", "--resize", "pad", "--out", "mine"]
    code, out, _ = run("pack", "photos", *options)
    assert code == 0 and "mine: 6 images, 16x16, channels=1" in out
    assert run("pack", "photos", *options)[0] == 0
    assert "pack" in run("--help")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pack", "Missing argument"),
        ("pack missing", "missing does not exist; give a folder"),
        ("pack photos --image-size big", "is not a size"),
        ("pack photos --channels 2", "channels must be 'auto', 1, 3 or 4, but it is 2"),
        ("pack photos --resize zoom", "resize must be one of crop, pad, stretch"),
        ("pack photos --workers 0", "workers must be at least 1"),
        ("pack photos --out=", "'--out': it is empty; give the path"),
        ("pack photos --out photos", "out is photos, which is not empty"),
        ("pack photos --out /proc/pack", "the pack /proc/pack cannot be written"),
        ("pack done", "done is packed already"),
        ("train --data done --image-size 32", "holds images of 16x16, but image_size is 32x32; leave it out"),
        ("train --data done --channels 1", "holds images of 3 channels, but channels is 1"),
        ("train --cache disk", "cache must be one of auto, memory, device, but it is 'disk'"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, arguments, words):
    run("pack", "photos", "--image-size", "16", "--out", "done")
    code, out, err = run(*arguments.split())
    assert code == 2
    assert words in err and len(err.splitlines()) == 1 and err.startswith("fastgan: ")
    assert "Traceback" not in out + err


def test_what_is_left_out_is_told(run):
    Path("photos/dog/broken.png").write_text("no picture")
    code, out, err = run("pack", "photos", "--image-size", "16")
    assert code == 0 and "6 images" in out
    assert "photos: left out what cannot be read: dog/broken.png (not an image in a known format)" in err
    assert run("pack", "photos", "--image-size", "16")[2] == ""


def test_the_emoji_have_a_preset():
    config = TrainConfig(data="emoji").resolved()
    assert (config.image_size, config.channels, config.cache) == (64, "auto", "auto")
    assert TrainConfig(data="photos").resolved().image_size == 64
