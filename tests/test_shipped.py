"""The generator of digits that comes with fastgan."""

from pathlib import Path

import pytest
from digit_judge import HELD_OUT, fitted, report
from runs import write_run
from setuptools.dist import Distribution

import fastgan
from fastgan.errors import UserError
from fastgan.generation import SHIPPED

ROOT = Path(__file__).parents[1]
SAMPLES = 1000


@pytest.fixture(scope="module")
def images():
    return fastgan.load("digits").generate(SAMPLES)


def test_it_is_small_and_in_half_precision():
    assert SHIPPED.stat().st_size < 1_500_000
    assert fastgan.load("digits").discriminator is None
    header = SHIPPED.read_bytes()[: 2**16]
    assert b'"F16"' in header and b'"F32"' not in header


def test_its_images_are_various(images):
    assert images.shape == (SAMPLES, 1, 32, 32) and images.isfinite().all() and images.abs().max() <= 1
    assert images.std(0).mean() > 0.25 and len(images.flatten(1).mul(4).round().unique(dim=0)) == SAMPLES


def test_the_judge_reads_its_digits(images):
    _, accuracy = fitted()
    assert accuracy >= 0.95, f"the judge is right on {accuracy:.1%} of {HELD_OUT} held-out digits only"
    found = report(images)
    assert found["mean_top_probability"] >= 0.85, found
    assert min(found["shares"]) >= 0.02, found


def test_it_is_what_is_loaded_where_there_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fastgan.load().path == SHIPPED
    write_run(tmp_path / "runs" / "00000-noise-mlp-28x28", "mlp")
    assert fastgan.load().path == Path("runs/00000-noise-mlp-28x28")
    assert fastgan.load("digits").path == SHIPPED


def test_a_folder_of_its_name_is_asked_for_by_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "digits", "mlp")
    assert fastgan.load("digits").path == SHIPPED
    assert fastgan.load("./digits").data == fastgan.load(Path("digits")).data == "noise"


def test_it_gives_no_scores(images):
    with pytest.raises(UserError, match="holds a generator only"):
        fastgan.load("digits").score(images)


def test_it_has_not_the_training_images_by_heart(images):
    found = fastgan.load("digits").nearest(images[:100], "digits")
    assert found.distance.median() > 0.25  # 0.31 from a real one to the nearest other


def test_a_wheel_has_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files(["pyproject.toml"])
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    packed = {Path(source, name) for _, source, _, names in command.data_files for name in names}
    for path in (SHIPPED, SHIPPED.with_name("README.md")):
        assert path.relative_to(ROOT) in packed


def test_its_readme_is_of_this_file():
    text = SHIPPED.with_name("README.md").read_text()
    assert f"{SHIPPED.stat().st_size:,} bytes" in text and f"{fastgan.load('digits').step:,} steps" in text
