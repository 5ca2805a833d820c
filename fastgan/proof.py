"""What ``fastgan bench`` measures: that fastgan computes what torch computes, in what time, and with what memory.

Both train the networks of the DCGAN tutorial from one start on one batch, in one process.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn
from torch import Tensor
from torch.nn import Module

import fastgan
import fastgan.layers
from fastgan import _native, models, training, tutorial
from fastgan._memory import check_fits
from fastgan.errors import UserError
from fastgan.training._capture import WARM_UP

__all__ = ["AUTOCAST", "BAR", "Contenders", "Proof", "interleaved", "kept_for_backward"]

BAR = 1e-9  # of float64; the order of a sum alone makes about 1e-13 after five steps of Adam
EXACT_STEPS = 5
BEFORE_GRAPH = WARM_UP + 2  # steps of a new AdversarialStep up to the one that captures it: the first makes moments
EXACT_BATCH = 4  # at most: float64 is slow, and a larger batch proves no more
AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}  # by the name of the precision


class Contenders(NamedTuple):
    """Who takes part in a comparison of speed."""

    steps: dict[str, Callable[[], None]]  # one training step each
    compile_seconds: float | None  # the first step of the compiled networks
    compile_failure: str | None  # why they do not take part


@dataclass(frozen=True)
class Proof:
    """The comparison's size; each method is one part of it, as plain values that JSON takes.

    Args:
        batch_size: images a step.
        width: feature maps of the layers next to the image.
        rounds: steps of each contender that are timed.
        seed: of the weights, the images and the latents.
        device: where all of it runs.

    Raises:
        UserError: where a number is out of range, they do not fit into memory, or the native libraries for the device
            are missing.
    """

    batch_size: int = 16
    width: int = 64
    rounds: int = 8
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("width", 1), ("rounds", 1), ("seed", 0)):
            value = getattr(self, name)
            if not least <= value < 2**63:
                raise UserError(f"{name} must be a whole number of at least {least}, but it is {value}; give another.")
        if self.device.type == "cpu":
            side = tutorial.IMAGE_SIZE // 2  # of the largest activations, of which each network keeps one for backward
            least = 4 * (2 * self.batch_size * self.width * side**2 + 8 * self.width * 4 * self.width * 4 * 4)
            check_fits(least, f"batches of {self.batch_size:,} at width {self.width:,}", "make one of them smaller")
        if not _native.loaded(self.device.type):
            raise UserError(f"bench needs the native libraries: {_native.reason(self.device.type)}.")

    def machine(self) -> dict[str, Any]:
        """Hardware, versions and settings."""
        info = fastgan.info()
        return {
            **{name: info[name] for name in ("version", "torch", "cpu_isa", "build")},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": str(self.device),
            "device_name": _cpu_name() if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "image_size": tutorial.IMAGE_SIZE,
            **{name: getattr(self, name) for name in ("batch_size", "width", "rounds", "seed")},
        }

    def exactness(self) -> dict[str, Any]:
        """How far ``fastgan.layers`` and ``AdversarialStep`` get from ``torch.nn`` in a few steps of float64.

        ``losses`` is the largest absolute difference of what the loop prints, ``state`` the largest difference of a
        weight or running statistic, relative in norm.
        """
        batch = min(self.batch_size, EXACT_BATCH)
        contenders = {
            "fastgan.layers": self._loop(fastgan.layers, dtype=torch.float64),
            "AdversarialStep": self._step(dtype=torch.float64),
        }
        losses, truth = self._beside_truth(contenders, self._inputs(batch, torch.float64), EXACT_STEPS)
        found = {
            name: {"losses": losses[name], "state": _state_error(step, truth)} for name, step in contenders.items()
        }
        largest = _largest([error for errors in found.values() for error in errors.values()])
        return {
            "dtype": "float64",
            "steps": EXACT_STEPS,
            "batch_size": batch,
            "bar": BAR,
            "differences": found,
            "largest": largest,
            "equal": largest <= BAR,
        }

    def errors(self, precision: str, memory_format: torch.memory_format) -> dict[str, dict[str, float]]:
        """How far a step of each contender is from ``torch.nn``'s in float64; only one, since rounding grows by each.

        ``losses`` as :meth:`exactness` says; ``update``, that of what the step adds to the state, relative in norm over
        both networks. Adam's first step is by the signs of the gradients, so the latter is large wherever one rounds.
        """
        options = {"autocast": AUTOCAST[precision], "memory_format": memory_format}
        contenders = {
            "torch.nn": self._loop(torch.nn, **options),
            "fastgan.layers": self._loop(fastgan.layers, **options),
            "AdversarialStep": self._step(**options),
        }
        batch = min(self.batch_size, EXACT_BATCH)
        losses, truth = self._beside_truth(contenders, self._inputs(batch, torch.float32, memory_format), 1)
        start, end = _state(self._loop(torch.nn, dtype=torch.float64)), _state(truth)
        return {
            name: {"losses": losses[name], "update": float((_state(step) - end).norm() / (end - start).norm())}
            for name, step in contenders.items()
        }

    def _beside_truth(
        self, contenders: dict[str, Callable[..., Any]], inputs: list[Tensor], steps: int
    ) -> tuple[dict[str, float], tutorial.Loop]:
        """The largest error of each contender's losses, and the loop in float64 that took the same steps."""
        truth = self._loop(torch.nn, dtype=torch.float64)
        exact_inputs = [tensor.double() for tensor in inputs]
        losses = dict.fromkeys(contenders, 0.0)
        for _ in range(steps):
            expected = truth(*exact_inputs)
            for name, step in contenders.items():
                found = step(*inputs)
                losses[name] = _largest([losses[name], *(abs(float(found[key]) - expected[key]) for key in expected)])
        return losses, truth

    def memory(self) -> dict[str, dict[str, float]]:
        """Bytes that a training forward in float32 keeps for backward, and fastgan's share of torch's."""
        real, latent = self._inputs(self.batch_size, torch.float32)
        found: dict[str, dict[str, float]] = {"generator": {}, "discriminator": {}}
        for name, namespace in (("torch.nn", torch.nn), ("fastgan.layers", fastgan.layers)):
            loop = self._loop(namespace)
            found["generator"][name] = kept_for_backward(loop.generator, latent)
            found["discriminator"][name] = kept_for_backward(loop.discriminator, real)
        found["both"] = {name: sum(part[name] for part in found.values()) for name in ("torch.nn", "fastgan.layers")}
        for part in found.values():
            part["ratio"] = part["fastgan.layers"] / part["torch.nn"]
        return found

    def speed(self, precision: str, compiled: bool = True) -> dict[str, Any]:
        """Milliseconds a step of each contender, and the kernels that one step of ``fastgan.layers`` ran.

        Args:
            precision: "float32", or "bfloat16": float32 weights under bfloat16 autocast, channels-last.
            compiled: whether torch.compile of the ``torch.nn`` networks takes part.

        Returns:
            ``ms``, medians by contender; ``speedup`` of fastgan's contenders over torch's; ``compile_seconds``, the
            first step of the compiled networks (less where torch finds them in its cache on disk);
            ``compile_failure``, why they did not take part, or None; ``kernels``, calls by operator and kernel.
        """
        if compiled:
            torch.compiler.reset()  # of another precision's networks, which count against the limit of recompilations
        format = torch.contiguous_format if precision == "float32" else torch.channels_last
        contenders = self.contenders(precision, format, compiled)
        _native.reset_counters()
        contenders.steps["fastgan.layers"]()
        kernels = _native.counters()
        for _ in range(BEFORE_GRAPH if self.device.type == "cuda" else 0):
            contenders.steps["AdversarialStep"]()
        ms = {name: 1e3 * value for name, value in interleaved(contenders.steps, self.rounds).items()}
        theirs = [name for name in ms if name.startswith("torch.")]
        return {
            "ms": ms,
            "speedup": {name: {other: ms[other] / ms[name] for other in theirs} for name in ms if name not in theirs},
            "compile_seconds": contenders.compile_seconds,
            "compile_failure": contenders.compile_failure,
            "kernels": kernels,
        }

    def contenders(
        self,
        precision: str,
        memory_format: torch.memory_format,
        compiled: bool = True,
        compile_mode: str | None = None,
    ) -> Contenders:
        """All that take part, from one start on one batch.

        Args:
            precision: "float32" or "bfloat16", as :meth:`speed` takes it.
            memory_format: of the networks and the images.
            compiled: whether torch.compile of the ``torch.nn`` networks takes part.
            compile_mode: torch.compile's own; None is its default.
        """
        inputs = self._inputs(self.batch_size, torch.float32, memory_format)
        options = {"autocast": AUTOCAST[precision], "memory_format": memory_format}

        def bound(step: Callable[..., Any]) -> Callable[[], None]:
            return lambda: self._finish(step, *inputs)

        steps = {"torch.nn": bound(self._loop(torch.nn, **options))}
        seconds, failure = None, None
        if compiled:
            loop = self._loop(torch.nn, **options)
            seconds, failure = _compile(loop, bound(loop), compile_mode)
            if failure is None:
                steps["torch.compile"] = bound(loop)
        steps["fastgan.layers"] = bound(self._loop(fastgan.layers, **options))
        steps["AdversarialStep"] = bound(self._step(**options))
        return Contenders(steps, seconds, failure)

    def _inputs(
        self, batch_size: int, dtype: torch.dtype, format: torch.memory_format = torch.contiguous_format
    ) -> list[Tensor]:
        place = {"device": self.device, "dtype": dtype, "memory_format": format}
        return [tensor.to(**place) for tensor in tutorial.inputs(batch_size, self.seed)]

    def _loop(self, namespace: Any, **options: Any) -> tutorial.Loop:
        return tutorial.Loop(namespace, width=self.width, seed=self.seed, device=self.device, **options)

    def _step(self, autocast: torch.dtype | None = None, **options: Any) -> training.AdversarialStep:
        """fastgan's own networks and step, from the tutorial's start. Its discriminator gives logits."""
        start = self._loop(fastgan.layers, **options)
        built = models.build(
            "dcgan",
            image_size=tutorial.IMAGE_SIZE,
            channels=tutorial.CHANNELS,
            latent_dim=tutorial.LATENT_DIM,
            width=self.width,
        )
        for network, same in zip(built, (start.generator, start.discriminator), strict=True):
            network.to(self.device, options.get("dtype"), memory_format=options.get("memory_format"))
            network.main.load_state_dict(same.state_dict())
        # Fused, as the trainer's are: what the whole step is worth, and no more than its users get.
        optimizers = (tutorial.optimizer(network, fused=True) for network in built)
        # A graph of float64 would not be captured, and would say so.
        capture = "never" if options.get("dtype") == torch.float64 else "auto"
        return training.AdversarialStep(*built, *optimizers, precision="bf16" if autocast else "fp32", capture=capture)

    def _finish(self, step: Callable[..., Any], real: Tensor, latent: Tensor) -> None:
        step(real, latent)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def interleaved(functions: dict[str, Callable[[], object]], rounds: int = 30) -> dict[str, float]:
    """Median seconds of each function; they take turns, so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def kept_for_backward(network: Module, input: Tensor) -> int:
    """Bytes of memory that ``network(input)`` keeps for backward, each storage counted once.

    What is there anyway is not counted: parameters, buffers and the input itself.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), input)}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(input)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in there)


def _compile(loop: tutorial.Loop, first_step: Callable[[], None], mode: str | None) -> tuple[float | None, str | None]:
    """The seconds of a first step with compiled networks, or the sentence why there is none."""
    begin = time.perf_counter()
    try:
        loop.compile(mode)
        first_step()
    except Exception as error:  # a compiler's, which may be anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return None, f"torch.compile does not work here, so it is left out: {reason}."
    return time.perf_counter() - begin, None


def _state_error(found: Any, expected: tutorial.Loop) -> float:
    """The largest difference of a tensor of the state, relative in norm, over both networks."""
    errors = []
    for name in ("generator", "discriminator"):
        theirs = getattr(expected, name).state_dict()
        ours = getattr(found, name).state_dict()
        for key, truth in theirs.items():
            # fastgan's own networks keep their layers in a child.
            value = ours[key if key in ours else f"main.{key}"]
            norm = truth.double().norm().item()
            errors.append((value.double() - truth.double()).norm().item() / (norm or 1.0))
    return _largest(errors)


def _state(step: Any) -> Tensor:
    """Weights and running statistics of both networks as one vector in float64."""
    networks = (step.generator, step.discriminator)
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    return torch.cat([tensor.flatten().double() for tensor in tensors if tensor.is_floating_point()])


def _largest(errors: list[float]) -> float:
    # max() drops a NaN that does not come first.
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
