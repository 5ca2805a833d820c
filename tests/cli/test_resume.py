import os
from pathlib import Path

from fastgan.training import TrainConfig

TINY = ["--batch-size", "4", "--width", "2", "--latent-dim", "4", "--image-size", "16", "--device", "cpu"]


def test_continues_the_run_that_was_begun_last(run):
    for index, name in enumerate(["00000", "00001"]):
        assert run("train", "--steps", "2", *TINY, "--seed", index, "--out", f"runs/{name}-mine")[0] == 0
        os.utime(f"runs/{name}-mine/config.json", (index, index))
    code, out, err = run("resume", "--steps", "4", "--lr", "1e-4", "--on-nan", "rollback")
    assert (code, err) == (0, "") and "run       runs/00001-mine, resumed after step 2" in out
    config = TrainConfig.from_json(Path("runs/00001-mine/config.json").read_text())
    assert (config.steps, config.lr_g, config.lr_d, config.on_nan, config.seed) == (4, 1e-4, 1e-4, "rollback", 1)
    assert len(Path("runs/00001-mine/metrics.jsonl").read_text().splitlines()) == 4


def test_a_folder_of_images_is_found_from_elsewhere_and_where_it_has_moved(run, monkeypatch):
    from PIL import Image

    Path("photos").mkdir()
    for index in range(5):
        Image.new("L", (16, 16), index * 40).save(f"photos/{index}.png")
    assert run("train", "--data", "photos", "--steps", "1", *TINY, "--out", "run")[0] == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, _, err = run("resume", "../run", "--steps", "2")
    assert (code, err) == (0, "")
    Path("../photos").rename("../pictures")
    code, _, err = run("resume", "../run", "--steps", "3")
    assert code == 2 and "photos, which does not exist; say where it is now by --data (in Python: data).\n" in err
    code, _, err = run("resume", "../run", "--steps", "3", "--data", "../pictures")
    assert code == 0 and "goes on with pictures (5 images); the resume is exact only if these are the same" in err
