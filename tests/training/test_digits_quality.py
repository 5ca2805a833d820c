"""What `fastgan train` without an argument promises: digits that a person can read, and a judge fitted to real ones."""

import pytest
from digit_judge import HELD_OUT, fitted, report

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
