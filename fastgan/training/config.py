"""Everything a training run is told, as one plain dataclass, and what goes before what."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastgan.data import CACHES, native_size
from fastgan.data.decode import RESIZE_MODES
from fastgan.errors import UserError
from fastgan.losses import CROSS_ENTROPIES, LOSSES
from fastgan.models._shapes import MAX_SIZE, MIN_SIZE
from fastgan.training.presets import PRESETS, preset_of
from fastgan.training.step import PRECISIONS
from fastgan.training.task import TASKS

__all__ = ["TrainConfig", "layered", "read_settings"]

FORMAT = 1  # of a written configuration
L1_WEIGHT = 100.0  # pix2pix's
ON_NAN = ("stop", "rollback")


@dataclasses.dataclass
class TrainConfig:
    """The settings of a training run; None stands for the value of the preset (:mod:`fastgan.training.presets`).

    Raises:
        UserError: (a ValueError) for a value that cannot be used; the message names the field.
    """

    preset: str | None = None
    """The name of a preset; None: that of ``data``, as :func:`fastgan.training.presets.preset_of` knows it."""
    data: str | None = None
    """"digits", "emoji", or what else :func:`fastgan.data.load` takes: a folder, a pack, a file of images; None: the
    preset's, or else the digits."""
    out: str | None = None
    """The run's folder; None: the next free ``runs/00000-<data>-<model>-<size>``."""
    model: str = "dcgan"
    """The family of networks, as :func:`fastgan.models.build` knows it."""
    conditional: bool = False
    """Give the networks the class of each image: for data with labels."""
    task: str | None = None
    """With model "encoder_decoder", what its images are made of: the real ones, spoilt for "denoise", "colourise" or
    "inpaint", or for "pairs" those of ``source``."""
    source: str | None = None
    """With task "pairs": the folder of the images that those of ``data`` are to be made of, by the same file names."""
    image_size: int | tuple[int, int] | None = None
    """Pixels, one number for a square or (height, width)."""
    resize: str = "crop"
    """How other shapes become ``image_size``: "crop", "pad" or "stretch"."""
    channels: int | str = "auto"
    """1, 3, 4, or "auto": 1 where all images are grey, otherwise 3."""
    mirror: bool | None = None
    """Mirror each image left to right with probability 1/2; None: the preset's, or else not."""
    steps: int | None = None
    """Updates of both networks; or else ``epochs``."""
    epochs: float | None = None
    """Passes over the images; or else ``steps``."""
    batch_size: int | None = None
    """Real images an update of the discriminator, and as many generated ones."""
    lr: float | None = None
    """Adam's learning rate."""
    lr_g: float | None = None
    """The generator's learning rate, if another than ``lr``."""
    lr_d: float | None = None
    """The discriminator's learning rate, if another than ``lr``."""
    beta1: float = 0.5
    """Adam's decay of the mean of gradients; its beta2 is 0.999."""
    latent_dim: int | None = None
    """Length of the generator's latent vectors."""
    width: int | None = None
    """Feature maps of the layer next to the image."""
    head: str | None = None
    """How dcgan's discriminator judges: by a last "conv"olution, or a "linear" layer; None: the model's own."""
    pooling: str | None = None
    """lenet's: "max" or "average"; None: the model's own."""
    skips: bool | None = None
    """Whether encoder_decoder's decoder sees what the encoder found; None: the model's own."""
    loss: str = "non_saturating"
    """The objective: "non_saturating", "minimax", "hinge", "least_squares" or "wgan_gp"."""
    label_smoothing: float | None = None
    """Real images are labelled with 1 - this (one-sided)."""
    d_steps: int = 1
    """Updates of the discriminator a step, each on a batch of its own."""
    accumulate: int = 1
    """Micro-batches that each batch is cut into, to save memory."""
    penalty_weight: float = 10.0
    """Of the gradient penalty of "wgan_gp"."""
    l1_weight: float | None = None
    """Of the mean absolute difference from the real image in the generator's loss, with a task only; None: 100 with
    one, otherwise 0."""
    r1_gamma: float | None = None
    """Gamma of the R1 penalty; 0: none; None: the preset's, or else none."""
    r1_every: int = 16
    """Steps between R1 penalties."""
    spectral_norm: bool = False
    """Divide the discriminator's weights by their spectral norm."""
    ema_decay: float | None = None
    """Decay a step of the averaged generator, which samples are made with; 0: no averaging."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """A torch device; "auto": the first GPU, otherwise the CPU."""
    precision: str = "auto"
    """"fp32", "bf16" or "fp16" (autocast), or "auto": bf16 where the hardware has it."""
    workers: int | str = "auto"
    """Threads that decode images; "auto": one a CPU."""
    cache: str = "auto"
    """Where images are kept: "memory", "device" (the GPU's memory), or "auto": a pack on the disk, others in memory."""
    sample_every: int | None = None
    """Steps between grids of samples; 0: at the beginning and the end only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; 0: at the end only."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints are kept."""
    tensorboard: str | bool = "auto"
    """Write for TensorBoard; "auto": where it is installed."""
    on_nan: str = "stop"
    """What happens where a loss or a weight is no finite number: "stop", or "rollback" to the last checkpoint, from
    which the run goes on with other random numbers, at most three times."""
    deterministic: bool = False
    """Let torch use deterministic algorithms only, where a GPU has faster ones."""

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):  # as JSON and TOML have it
            self.image_size = tuple(self.image_size)
        for name, (allowed, sentence) in _RULES.items():
            value = getattr(self, name)
            optional = _DEFAULTS[name] is None
            if not (value is None and optional) and not allowed(value):
                raise UserError(f"{name} must be {sentence}, but it is {value!r}; give another value.")
        if self.steps is not None and self.epochs is not None:
            raise UserError(f"steps ({self.steps}) and epochs ({self.epochs:g}) are both given; give one of them.")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulate} micro-batches of one size; give an "
                "accumulate that divides it."
            )

    def resolved(self, preset: str | None = None) -> TrainConfig:
        """A copy with the values of a preset where this has None: ``self.preset``, or ``preset``, or that of ``data``.

        ``image_size`` is that of ``data`` where all its images are of one size, as those of a pack or an array are.
        ``out`` stays as it is, and so does one of ``steps`` and ``epochs``.
        """
        name = self.preset or preset or preset_of(self.data)
        values = layered(_BASE, PRESETS[name], dataclasses.asdict(self))
        if preset is None and self.image_size is None and (size := native_size(values["data"])) is not None:
            values["image_size"] = size
        if self.loss not in CROSS_ENTROPIES and self.label_smoothing is None:
            values["label_smoothing"] = 0.0  # there are no labels
        if self.loss == "wgan_gp" and self.r1_gamma is None:
            values["r1_gamma"] = 0.0  # it has a gradient penalty of its own
        if self.l1_weight is None:
            values["l1_weight"] = 0.0 if self.task is None else L1_WEIGHT
        if "lr" in values:
            values = {"lr_g": values["lr"], "lr_d": values["lr"], **values}
        return TrainConfig(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, and the format; a pair is a list, as JSON and TOML have it."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`; missing fields have their defaults.

        Raises:
            UserError: for a name that is no field, with the nearest one, and for a newer format.
        """
        values = dict(values)
        written = values.pop("format", FORMAT)
        if written != FORMAT:
            raise UserError(
                f"the configuration is of format {written!r}, but this fastgan knows format {FORMAT} only; use the "
                "version that has written it."
            )
        for key in values:
            if key not in _DEFAULTS:
                near = difflib.get_close_matches(key, _DEFAULTS, 1)
                raise UserError(
                    f"there is no setting {key!r}; "
                    + (f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(_DEFAULTS)}.")
                )
        return cls(**values)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The inverse of :meth:`to_json`. Raises UserError where the text is no JSON object of fields."""
        return cls.from_dict(_parsed("JSON", json.loads, text))

    def to_toml(self) -> str:
        """The fields as TOML, which has no null: those that are None are left out."""
        return "".join(f"{key} = {_toml(value)}\n" for key, value in self.to_dict().items() if value is not None)

    @classmethod
    def from_toml(cls, text: str) -> TrainConfig:
        """The inverse of :meth:`to_toml`. Raises UserError where the text is not TOML, or not of fields."""
        return cls.from_dict(_parsed("TOML", _load_toml, text))


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the layers, each going before those that stand before it; None is no setting.

    A layer's ``steps`` also takes the place of ``epochs`` in those, and the other way round; its ``lr`` that of
    ``lr_g`` and ``lr_d``.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        given = {name: value for name, value in layer.items() if value is not None}
        for name in given:
            for other in _SUPERSEDED.get(name, ()):
                values.pop(other, None)
        values |= given
    return values


_SUPERSEDED = {"steps": ("epochs",), "epochs": ("steps",), "lr": ("lr_g", "lr_d")}


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a file holds, JSON where its name ends in ".json" and TOML otherwise, by name.

    Raises:
        UserError: where it cannot be read, or holds something else; the message names the file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = _parsed("JSON", json.loads, text) if path.suffix == ".json" else _parsed("TOML", _load_toml, text)
        config = TrainConfig.from_dict(values)
    except OSError as error:
        raise UserError(
            f"config is {path}, which cannot be read ({error.strerror}); give a TOML or JSON file."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"config is {path}, which is no UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return {name: getattr(config, name) for name in values if name != "format"}


_BASE = {"data": "digits", "mirror": False, "r1_gamma": 0.0}  # where neither the configuration nor its preset says it

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def _load_toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)


def _parsed(language: str, parse: Callable[[str], Any], text: str) -> dict[str, Any]:
    try:
        values = parse(text)
    except ValueError as error:
        raise UserError(f"the configuration is not {language} ({error}); mend it or write it anew.") from None
    if not isinstance(values, dict):
        raise UserError(f"the configuration must be a table of settings, but it is a {type(values).__name__}; mend it.")
    return values


def _toml(value: Any) -> str:
    # JSON's strings, numbers, booleans and arrays are TOML's too, but for one control character that JSON leaves as is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _size(value: Any) -> bool:
    return _whole(value, 1) or (isinstance(value, tuple) and len(value) == 2 and all(_whole(side, 1) for side in value))


_RATE = (lambda value: _number(value) and 0 < value <= 1, "a number above 0 and at most 1, such as 2e-4")
_COUNT = (lambda value: _whole(value, 1), "a whole number of at least 1")
_INTERVAL = (lambda value: _whole(value, 0), "a whole number of steps, or 0 for never")
_WEIGHT = (lambda value: _number(value) and value >= 0, "a number of at least 0")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_TEXT = (lambda value: isinstance(value, str) and value != "", "a text that is not empty")


def _one_of(*choices: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: not isinstance(value, bool) and value in choices, f"one of {', '.join(map(str, choices))}"


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "preset": _one_of(*PRESETS),
    "data": _TEXT,
    "out": _TEXT,
    "model": _TEXT,
    "conditional": _FLAG,
    "task": _one_of(*TASKS),
    "source": _TEXT,
    "image_size": (
        _size,
        f"pixels, one number or height and width, {MIN_SIZE} to {MAX_SIZE} for fastgan's own networks",
    ),
    "resize": _one_of(*RESIZE_MODES),
    "channels": _one_of("auto", 1, 3, 4),
    "mirror": _FLAG,
    "steps": _COUNT,
    "epochs": (lambda value: _number(value) and value > 0, "a number above 0"),
    "batch_size": _COUNT,
    "lr": _RATE,
    "lr_g": _RATE,
    "lr_d": _RATE,
    "beta1": (lambda value: _number(value) and 0 <= value < 1, "at least 0 and below 1"),
    "latent_dim": _COUNT,
    "width": _COUNT,
    "head": _TEXT,
    "pooling": _TEXT,
    "skips": _FLAG,
    "loss": _one_of(*LOSSES),
    "label_smoothing": (lambda value: _number(value) and 0 <= value < 0.5, "at least 0 and below 0.5"),
    "d_steps": _COUNT,
    "accumulate": _COUNT,
    "penalty_weight": _WEIGHT,
    "l1_weight": _WEIGHT,
    "r1_gamma": _WEIGHT,
    "r1_every": _COUNT,
    "spectral_norm": _FLAG,
    "ema_decay": (lambda value: _number(value) and 0 <= value < 1, "at least 0 and below 1"),
    "seed": (lambda value: _whole(value, 0), "a whole number of at least 0"),
    "device": _TEXT,
    "precision": _one_of(*PRECISIONS),
    "workers": (lambda value: value == "auto" or _whole(value, 1), "a whole number of at least 1, or auto"),
    "cache": _one_of(*CACHES),
    "sample_every": _INTERVAL,
    "checkpoint_every": _INTERVAL,
    "keep_checkpoints": _COUNT,
    "tensorboard": (lambda value: value == "auto" or isinstance(value, bool), "true, false or auto"),
    "on_nan": _one_of(*ON_NAN),
    "deterministic": _FLAG,
}
