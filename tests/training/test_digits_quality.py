"""What `fastgan train` without an argument promises: digits that a person can read, and a judge fitted to real ones."""

import time

import pytest
from digit_judge import HELD_OUT, fitted, report
from digit_judge import judge as judged

import fastgan
from fastgan.training import TrainConfig, Trainer

SAMPLES = 1000


@pytest.fixture(scope="module")
def judge():
    """``report``, once the judge itself has been judged."""
    _, accuracy = fitted()
    assert accuracy >= 0.95, f"the judge is right on {accuracy:.1%} of {HELD_OUT} held-out digits only"
    return report


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_digits_are_read_by_the_judge(tmp_path, judge, seed):
    result = Trainer(TrainConfig(out=str(tmp_path / "run"), seed=seed, device="cpu")).train()
    found = judge(fastgan.load(result.folder).generate(SAMPLES, seed=seed))
    assert found["mean_top_probability"] >= 0.85, found
    assert min(found["shares"]) >= 0.02, found


@pytest.mark.long
def test_conditional_digits_are_of_their_class(tmp_path, judge):
    result = Trainer(TrainConfig(out=str(tmp_path / "run"), conditional=True, device="cpu")).train()
    gan = fastgan.load(result.folder)
    # 300 of each: of 100, chance alone moves the worst label by ten.
    right = [
        float((judged(gan.generate(300, seed=0, label=label)).argmax(1) == label).float().mean()) for label in range(10)
    ]
    assert min(right) >= 0.8, right


@pytest.mark.long
def test_the_fully_connected_pair_learns_digits_within_a_minute(tmp_path, judge):
    began = time.perf_counter()
    result = Trainer(TrainConfig(out=str(tmp_path / "run"), model="mlp", epochs=24, device="cpu")).train()
    assert time.perf_counter() - began < 60
    found = judge(fastgan.load(result.folder).generate(SAMPLES, seed=0))
    assert found["mean_top_probability"] >= 0.8, found
    assert min(found["shares"]) >= 0.02, found
