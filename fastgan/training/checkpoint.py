"""The whole state of a run in one safetensors file: tensors, and JSON in its metadata. Nothing is ever unpickled.

A SHA-256 of both is in there too, so that a file that is damaged anywhere is known to be. The same state makes the same
file, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.errors import FastganWarning, UserError
from fastgan.training.ema import EMA
from fastgan.training.run_folder import to_disk

__all__ = [
    "Damaged",
    "NotFinite",
    "TrainState",
    "load_checkpoint",
    "load_newest",
    "load_weights",
    "read_tensors",
    "save_checkpoint",
    "sub_state",
    "write_tensors",
]

FORMAT = 1
KEY = "fastgan"  # of the JSON in a file's metadata
CHECKSUM = "sha256"  # in the JSON, of the tensors and the rest of the JSON


class Damaged(UserError):
    """A file is not as it was written."""


class NotFinite(ArithmeticError):
    """The metrics or the state of a run hold infinite or undefined numbers."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
        """The updates after which they do."""


@dataclass
class TrainState:
    """What changes while a run trains."""

    generator: nn.Module
    discriminator: nn.Module
    ema: EMA
    opt_g: Optimizer
    opt_d: Optimizer
    step: int = 0
    """Updates done."""
    images: int = 0
    """Images seen by them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else the checkpoint is to remember, as JSON has it, such as the run's configuration."""


def save_checkpoint(path: str | os.PathLike[str], state: TrainState) -> None:
    """Writes the networks, the averaged generator, the optimizers and the state of every random generator.

    The file appears under its name when it is whole and on the disk.

    Raises:
        NotFinite: where a parameter or a number of an optimizer is infinite or undefined: such a state is not written.
        OSError: where the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in _modules(state).items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        _check_finite(name, module.named_parameters(), state.step)
        _check_finite(name, _running_statistics(module), state.step)
    optimizers = {}
    for name, optimizer in _optimizers(state).items():
        part, optimizers[name] = _optimizer_out(optimizer)
        _check_finite(name, part.items(), state.step)
        tensors |= {f"{name}.{key}": tensor for key, tensor in part.items()}
    generators, rng = _random_out()
    tensors |= generators
    described = {
        "kind": "checkpoint",
        "step": state.step,
        "images": state.images,
        "ema": {"updates": state.ema.updates, "decay": state.ema.decay},
        "optimizers": optimizers,
        "rng": rng,
        "facts": state.facts,
    }
    write_tensors(Path(path), tensors, described)


def load_checkpoint(path: str | os.PathLike[str], state: TrainState) -> TrainState:
    """Restores, in place, all that :func:`save_checkpoint` wrote, the random generators of this process included.

    Args:
        path: the file.
        state: networks and optimizers built as those that were saved.

    Returns:
        ``state``, with its step and facts.

    Raises:
        FileNotFoundError: where there is no such file.
        Damaged: (a UserError) where it is not as it was written. The state is untouched then.
        UserError: where it is no checkpoint, of another version's format, or of other networks.
    """
    tensors, described = read_tensors(path, "checkpoint")
    for name, module in _modules(state).items():
        load_weights(module, sub_state(tensors, name), path)
    for name, optimizer in _optimizers(state).items():
        _optimizer_in(optimizer, sub_state(tensors, name), described["optimizers"][name])
    state.ema.updates, state.ema.decay = described["ema"]["updates"], described["ema"]["decay"]
    _random_in(tensors, described["rng"])
    state.step, state.images, state.facts = described["step"], described["images"], described["facts"]
    return state


def load_newest(checkpoints: Sequence[Path], state: TrainState) -> Path | None:
    """Restores the newest of the checkpoints, the oldest of which comes first, that is not damaged.

    Damaged newer ones are named in a FastganWarning; ".damaged" is added to their names.

    Returns:
        The one that was loaded; None where there is none at all.

    Raises:
        UserError: where all are damaged, or as :func:`load_checkpoint` does.
    """
    damaged: list[Path] = []
    for path in reversed(checkpoints):
        try:
            load_checkpoint(path, state)
        except Damaged:
            damaged.append(path)
            continue
        for one in damaged:
            one.rename(f"{one}.damaged")
            warnings.warn(f"{one} is damaged; going on from {path}.", FastganWarning, stacklevel=2)
        return path
    if damaged:
        raise Damaged(
            f"none of the {len(damaged)} checkpoints in {damaged[0].parent} is as it was written; bring one back from "
            "a copy, or begin a new run."
        )
    return None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], described: dict[str, Any]) -> None:
    """Writes a safetensors file beside ``path``, sees it to the disk, and renames it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    described = {"format": FORMAT, **described}
    text = json.dumps({**described, CHECKSUM: _checksum(whole, json.dumps(described))})
    try:
        # Not save_file, whose own temporary file would be left by a kill, and whose files only their owner may read.
        temporary.write_bytes(save(whole, {KEY: text}))
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that :func:`write_tensors` wrote, on the CPU, and its description.

    Raises:
        FileNotFoundError: where there is no such file.
        Damaged: (a UserError) where it is not as it was written.
        UserError: where it is of another kind, or of another version's format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; give the path of a {kind} that a run has written.")
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{path} is damaged or no safetensors file ({error}); give another {kind}.") from None
    if described.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} was written by another version of fastgan (format {described['format']}, this one reads "
            f"{FORMAT}); install that version to read it."
        )
    if described and described.pop(CHECKSUM, None) != _checksum(tensors, json.dumps(described)):
        raise Damaged(f"{path} is damaged (its checksum is another one); give another {kind}.")
    if described.get("kind") != kind:
        raise UserError(f"{path} is not a {kind} of fastgan; give one that a run has written.")
    return tensors, described


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """``module.load_state_dict``; raises UserError where the weights are of another network."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"{path} does not fit the network {type(module).__name__} ({problem}); give the one it is of."
        ) from None


def sub_state(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under ``name.``, without it."""
    return {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """The SHA-256 of contiguous tensors on the CPU and the text, in hexadecimal."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _check_finite(owner: str, tensors: Iterable[tuple[str, Tensor]], step: int) -> None:
    for name, tensor in tensors:
        if not tensor.isfinite().all():
            raise NotFinite(f"{owner}.{name} is not finite", step)


def _running_statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Of batch-norms; other buffers may be infinite on purpose."""
    for path, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            yield from part.named_buffers(path, recurse=False)


def _modules(state: TrainState) -> dict[str, nn.Module]:
    return {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}


def _optimizers(state: TrainState) -> dict[str, Optimizer]:
    return {"opt_g": state.opt_g, "opt_d": state.opt_d}


def _optimizer_out(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors "index.name", and the rest of it as JSON has it."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def _optimizer_in(optimizer: Optimizer, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **described["numbers"]}.items():
        index, name = key.split(".", 1)
        if isinstance(value, Tensor) and value.shape == parameters[int(index)].shape:
            # The file has no strides, and the fused optimizers walk a parameter and its moments as if they had the
            # same.
            value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = [{name: tuple(v) if name == "betas" else v for name, v in group.items()} for group in described["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _random_out() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch's, NumPy's and Python's global generators as tensors, and what of them is no tensor."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "rng.torch": torch.get_rng_state(),
        "rng.python": torch.tensor(words, dtype=torch.int64),
        "rng.numpy": torch.from_numpy(keys.astype(np.int64)),
    }
    if torch.cuda.is_initialized():  # asking would make a context on every GPU, which takes memory
        tensors |= {f"rng.cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"python": [version, gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]}


def _random_in(tensors: Mapping[str, Tensor], described: dict[str, Any]) -> None:
    version, gauss = described["python"]
    random.setstate((version, tuple(tensors["rng.python"].tolist()), gauss))
    kind, *rest = described["numpy"]
    np.random.set_state((kind, tensors["rng.numpy"].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(tensors["rng.torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"rng.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{index}"], index)
