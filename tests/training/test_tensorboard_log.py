import pytest

from fastgan.errors import UserError
from fastgan.training import TrainConfig
from fastgan.training.run_folder import RunFolder
from fastgan.training.tensorboard_log import wants_tensorboard


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_missing_and_asked_for_is_a_sentence(trainer, tmp_path, missing):
    with pytest.raises(UserError, match="tensorboard is true, but the package is not installed; run `pip install"):
        trainer(tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_missing_and_not_asked_for_is_left_out(trainer, missing):
    assert not RunFolder(trainer(tensorboard="auto").train().folder).tensorboard.exists()


def test_what_may_be_asked():
    pytest.importorskip("tensorboard")
    assert [wants_tensorboard(choice) for choice in (True, False, "auto")] == [True, False, True]
    with pytest.raises(UserError, match="tensorboard must be true, false or auto, but it is 'yes'"):
        TrainConfig(tensorboard="yes")


def test_what_tensorboard_is_told(trainer):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = trainer(steps=60, sample_every=30, tensorboard=True).train()
    found = EventAccumulator(str(RunFolder(result.folder).tensorboard)).Reload()
    tags = found.Tags()
    assert {"loss/discriminator", "loss/generator", "probability/D(x)", "health/diversity"} <= set(tags["scalars"])
    assert [event.step for event in found.Images("samples")] == [0, 30, 60]
    points = found.Scalars("loss/discriminator")
    assert points[-1].step == 60 and 0 < points[-1].value < 5
    assert [event.step for event in found.Scalars("health/diversity")] == [50]
