"""A run's state in one safetensors file: both networks, the average, both optimizers, random state; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.errors import UserError

from .run_folder import write_whole

__all__ = ["load_checkpoint", "load_into", "read_tensors", "save_checkpoint", "save_tensors"]

FORMAT = 1
Networks = dict[str, nn.Module]
Optimizers = dict[str, Optimizer]


def save_checkpoint(path: Path, networks: Networks, optimizers: Optimizers, about: dict[str, Any]) -> None:
    """Writes everything that continuing needs, whole or not at all.

    Args:
        path: the file to write.
        networks: each by its name; parameters and buffers are kept under ``<name>/<key>``.
        optimizers: each by its name; tensors of their state are kept under ``<name>/<parameter number>/<key>``.
        about: what else to remember, as JSON (the step, the configuration).

    Raises:
        OSError: where it cannot be written.
    """
    tensors = {f"{name}/{key}": value for name, network in networks.items() for key, value in network.state_dict().items()}
    rest: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        rest[name] = {"param_groups": state["param_groups"], "state": {}}
        for number, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{number}/{key}"] = value
                else:
                    rest[name]["state"].setdefault(str(number), {})[key] = value
    tensors |= {f"rng/{device}": state for device, state in _rng_states().items()}
    save_tensors(path, tensors, {**about, "optimizers": rest})


def load_checkpoint(path: Path, networks: Networks, optimizers: Optimizers | None = None, *, rng: bool = True) -> dict[str, Any]:
    """Puts a checkpoint's state into ``networks`` and ``optimizers``, in place, and torch's random state back.

    Args:
        path: a file that :func:`save_checkpoint` wrote.
        networks, optimizers: by the names they were saved under; those left out here are not read.
        rng: False leaves torch's random state as it is.

    Returns:
        What was saved as ``about``.

    Raises:
        UserError: where the file is no checkpoint, is damaged, or is of other networks.
    """
    tensors, about = read_tensors(path)
    rest = about.pop("optimizers", {})
    for name, network in networks.items():
        load_into(network, _under(tensors, f"{name}/"), path)
    for name, optimizer in (optimizers or {}).items():
        if name not in rest:
            raise UserError(f"{path} holds no optimizer {name!r}; give a run's checkpoint.")
        state: dict[int, dict[str, Any]] = {int(n): dict(values) for n, values in rest[name]["state"].items()}
        for key, value in _under(tensors, f"{name}/").items():
            number, _, field = key.partition("/")
            state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": rest[name]["param_groups"]})
    if rng:
        _set_rng_states(_under(tensors, "rng/"))
    return about


def load_into(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """``network.load_state_dict(state)``, where a mismatch is one sentence."""
    own = network.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(key for key in own if own[key].shape != state[key].shape)
    if wrong:
        raise UserError(
            f"{path} holds the weights of another network than this {type(network).__name__}: they differ in {wrong[0]} "
            f"and {len(wrong) - 1} more; give the network that it was trained with."
        )
    network.load_state_dict(state)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """One safetensors file with ``about`` as JSON in its header, written whole or not at all."""
    # A copy of each: the format knows neither strides nor shared memory.
    copies = {key: value.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    header = {"format": "pt", "fastgan": json.dumps({"format": FORMAT, **about})}
    write_whole(path, safetensors.torch.save(copies, header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_tensors` wrote: the tensors and ``about``.

    Raises:
        UserError: where the file is not there, is damaged, or was not written by this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("fastgan", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        reason = "is damaged or is no safetensors file" if path.is_file() else "is not there"
        raise UserError(f"{path} {reason} ({str(error).splitlines()[0]}); give another file.") from None
    if about is None or about.pop("format", None) != FORMAT:
        raise UserError(f"{path} was not written by this version of fastgan; give a file out of a run's folder.")
    return tensors, about


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _rng_states() -> dict[str, Tensor]:
    return {"cpu": torch.get_rng_state(), **{f"cuda:{n}": torch.cuda.get_rng_state(n) for n in _cuda_devices()}}


def _set_rng_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for n in _cuda_devices():
        if f"cuda:{n}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{n}"], n)


def _cuda_devices() -> Iterator[int]:
    return iter(range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0))
