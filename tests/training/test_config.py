import dataclasses
import json

import pytest

from fastgan.errors import UserError
from fastgan.training import PRESETS, TrainConfig

CONFIGS = [
    TrainConfig(),
    TrainConfig(data='a "quoted" \\ folder \u00e4\u2028\x7f\n', out="x", image_size=(48, 64), steps=7, lr=1e-5),
    TrainConfig(data="photos", mirror=True, channels=3, epochs=0.5, workers=2, image_size=[32, 16]),
    TrainConfig().resolved(),
    TrainConfig(data="photos").resolved(),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trips(config):
    assert TrainConfig.from_json(config.to_json()) == config
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_toml(config.to_toml()) == config


def test_presets_fill_only_what_is_open():
    digits = TrainConfig(width=5, lr_d=1e-3).resolved()
    assert (digits.image_size, digits.width, digits.steps) == (32, 5, None)
    assert (digits.lr_g, digits.lr_d) == (PRESETS["digits"]["lr_g"], 1e-3)
    folder = TrainConfig(data="photos", epochs=3, lr=5e-5).resolved()
    assert (folder.image_size, folder.batch_size, folder.width, folder.epochs, folder.steps) == (64, 64, 64, 3, None)
    assert folder.lr_g == folder.lr_d == 5e-5
    assert folder.resolved() == folder
    assert TrainConfig().resolved().label_smoothing == 0.1
    assert TrainConfig(loss="hinge").resolved().label_smoothing == 0.0  # it has no labels
    for preset in PRESETS.values():
        assert ("steps" in preset) != ("epochs" in preset)
        assert set(preset) <= {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but it is 0"),
        ({"batch_size": 1.5}, "batch_size must be"),
        ({"steps": True}, "steps must be"),
        ({"epochs": float("nan")}, "epochs must be"),
        ({"lr": -1}, "lr must be"),
        ({"beta1": 1.0}, "beta1 must be"),
        ({"resize": "squash"}, "resize must be one of crop, pad, stretch"),
        ({"channels": 2}, "channels must be one of auto, 1, 3, 4"),
        ({"image_size": (3, 4, 5)}, "image_size must be"),
        ({"image_size": "64"}, "image_size must be"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"loss": "hinges"}, "loss must be one of"),
        ({"data": ""}, "data must be"),
        ({"seed": -1}, "seed must be"),
        ({"d_steps": 0}, "d_steps must be a whole number of at least 1, but it is 0"),
        ({"r1_gamma": -1.0}, "r1_gamma must be a number of at least 0"),
        ({"spectral_norm": 1}, "spectral_norm must be true or false"),
        ({"batch_size": 8, "accumulate": 3}, "batch_size 8 cannot be cut into 3 micro-batches"),
        ({"steps": 5, "epochs": 5}, "steps .* and epochs .* are both given"),
    ],
)
def test_errors_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        TrainConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TrainConfig.from_dict({"batchsize": 3}), "'batchsize'; did you mean 'batch_size'"),
        (lambda: TrainConfig.from_json("{"), "is not JSON"),
        (lambda: TrainConfig.from_json("[]"), "must be a table"),
        (lambda: TrainConfig.from_toml("a = "), "is not TOML"),
    ],
)
def test_reading_errors(call, words):
    with pytest.raises(UserError, match=words):
        call()
