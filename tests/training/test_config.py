import dataclasses
import json

import pytest

from fastgan.errors import UserError
from fastgan.training import PRESETS, TrainConfig
from fastgan.training.config import layered, read_settings

CONFIGS = [
    TrainConfig(),
    TrainConfig(data='a "quoted" \\ folder \u00e4\u2028\x7f\n', out="x", image_size=(48, 64), steps=7, lr=1e-5),
    TrainConfig(
        data="photos",
        preset="cpu-quick",
        on_nan="rollback",
        deterministic=True,
        mirror=True,
        channels=3,
        epochs=0.5,
        workers=2,
        image_size=[32, 16],
    ),
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
        assert set(preset) <= {field.name for field in dataclasses.fields(TrainConfig) if field.default is None}
    assert (TrainConfig().resolved().data, TrainConfig(preset="cpu-quick").resolved().data) == ("digits", "digits")
    assert TrainConfig(preset="emoji").resolved().data == "emoji"
    emoji = TrainConfig(data="emoji").resolved()
    assert emoji == dataclasses.replace(TrainConfig(preset="emoji").resolved(), preset=None)
    assert (emoji.mirror, emoji.r1_gamma, digits.mirror, digits.r1_gamma) == (True, 0.1, False, 0.0)
    plain = TrainConfig(data="emoji", mirror=False, r1_gamma=0.0)
    assert (plain.resolved().mirror, plain.resolved().r1_gamma) == (False, 0.0)
    assert TrainConfig(data="emoji", loss="wgan_gp").resolved().r1_gamma == 0.0  # it has a penalty of its own
    quick = TrainConfig(data="photos", preset="cpu-quick", width=8).resolved()
    assert (quick.data, quick.image_size, quick.width, quick.preset) == ("photos", 32, 8, "cpu-quick")
    assert quick.resolved() == quick


def test_later_layers_go_before_earlier_ones():
    assert layered({"seed": 1, "width": 2}, {"seed": 3, "width": None}) == {"seed": 3, "width": 2}
    assert layered({"epochs": 2}, {"steps": 5}) == {"steps": 5}
    assert layered({"steps": 2}, {"epochs": 5}) == {"epochs": 5}
    assert layered({"lr": 1, "lr_g": 2, "lr_d": 3}, {"lr": 4, "lr_d": 5}) == {"lr": 4, "lr_d": 5}
    assert layered({"lr": 1}, {"lr_g": 2}) == {"lr": 1, "lr_g": 2}


def test_files(tmp_path):
    toml, other = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text("seed = 0  # as it is anyway\nimage_size = [48, 64]\nlr = 1e-3\n")
    assert read_settings(toml) == {"seed": 0, "image_size": (48, 64), "lr": 1e-3}
    other.write_text(TrainConfig(width=8).to_json())
    assert read_settings(other) == dataclasses.asdict(TrainConfig(width=8))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.toml", "batch-size = 3", "'batch-size'; did you mean 'batch_size'"),
        ("x.toml", "format = 2\nnew = 1", "is of format 2, but this fastgan knows format 1 only"),
        ("x.toml", "width = 0", "width must be"),
        ("x.json", "width = 8", "is not JSON"),
        ("x.json", '"\xff', r"x\.json, which is no UTF-8 text \(invalid start byte\); save it as UTF-8"),
        ("none/x.toml", None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_file_errors_name_the_file(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words) as caught:
        read_settings(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


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
        ({"preset": "faces"}, "preset must be one of digits, emoji, cpu-quick, images"),
        ({"on_nan": "ignore"}, "on_nan must be one of stop, rollback"),
        ({"deterministic": 1}, "deterministic must be true or false"),
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
        (lambda: TrainConfig.from_dict({"xyzzy": 3}), "'xyzzy'; the settings are preset, data, out"),
        (
            lambda: TrainConfig.from_dict({"format": 2, "new": 1}),
            "is of format 2, but this fastgan knows format 1 only",
        ),
        (lambda: TrainConfig.from_json("{"), "is not JSON"),
        (lambda: TrainConfig.from_json("[]"), "must be a table"),
        (lambda: TrainConfig.from_toml("a = "), "is not TOML"),
    ],
)
def test_reading_errors(call, words):
    with pytest.raises(UserError, match=words):
        call()
