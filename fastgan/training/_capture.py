"""A whole step as one CUDA graph: captured once, then replayed with a single launch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastgan.errors import warn_once
from fastgan.layers import _gate

__all__ = ["StepGraph"]

WARM_UP = 3  # equal steps before the capture; each trains, on a side stream, as torch's notes on CUDA graphs ask for

Inputs = Sequence[Tensor | None]
Update = Callable[..., dict[str, Tensor]]


class StepGraph:
    """Calls ``update(*inputs)``, and replays it as a graph where it has been called in the same way before.

    A graph holds addresses and numbers as they were at its capture. The inputs (tensors on the device, or None) and
    learning rates are copied to addresses of its own before each replay. Whatever else it holds is compared at every
    call (:meth:`_state`): a step in another state, such as a smaller last batch, is run without the graph, and a state
    that stays gets a new one. Random numbers come from torch's CUDA generator, which hands a replay its offset.

    Args:
        update: the step; gives detached 0-d tensors by name.
        networks: what it runs and updates.
        optimizers: of the networks.
        settings: gives what else the step goes by, to be compared at every call.
    """

    def __init__(
        self,
        update: Update,
        networks: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        settings: Callable[[], tuple[Hashable, ...]] = tuple,
    ) -> None:
        self._update, self._networks, self._optimizers, self._settings = update, networks, optimizers, settings
        self._rates = _Rates(optimizers)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: tuple | None = None  # the state that the graph is of
        self._last: tuple | None = None  # the state of the last step, and for how many steps it has been so
        self._steps = 0
        self._aside: torch.cuda.Stream | None = None  # one a device, since each stream has freed memory of its own
        self._failure: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph and its stream: a copy is of other tensors, and gets its own."""
        kept = {**self.__dict__, **dict.fromkeys(("_graph", "_captured", "_last", "_aside")), "_steps": 0}
        return {name: value for name, value in kept.items() if name not in ("_inputs", "_values", "_names")}

    @property
    def is_captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def __call__(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """One step on the current stream; metrics with memory of their own."""
        reason = self._failure or self._why_not(inputs)
        if reason is not None:
            warn_once(f"capture: {reason}", f"the step runs without a CUDA graph, because {reason}.")
            return self._update(*inputs)
        if torch.cuda.is_current_stream_capturing():  # into a graph of the caller's own
            return self._update(*inputs)
        state = self._state(inputs)
        self._steps = self._steps + 1 if state == self._last else 0
        self._last = state
        if state != self._captured:
            if self._steps < WARM_UP:
                return self._run_aside(*inputs)
            if not self._capture(inputs):
                return self(*inputs)
            self._captured = state
        return self._replay(inputs)

    def _why_not(self, inputs: Inputs) -> str | None:
        if any(tensor is not None and tensor.requires_grad for tensor in inputs):
            return "the images, latents or labels ask for gradients, which a graph does not give"
        for optimizer in self._optimizers:
            if not all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups):
                return f"{type(optimizer).__name__} is neither fused nor capturable; make it with fused=True"
        modules = [module for network in self._networks for module in network.modules()]
        tensors = [parameter for network in self._networks for parameter in network.parameters()]
        if (
            _gate.has_global_hooks()
            or any(map(_gate.has_hooks, modules))
            or any(tensor._backward_hooks or tensor._post_accumulate_grad_hooks for tensor in tensors)
            or any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in self._optimizers)
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        ):
            return "there are hooks or replaced forwards, which must run; give capture='never'"
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            return "weights are float64, and a graph reads learning rates as float32"
        if any(isinstance(m, _BatchNorm) and m.momentum is None and m.track_running_stats for m in modules):
            return "a batch-norm has momentum=None, and its running mean goes by a number on the device"
        return None

    def _state(self, inputs: Inputs) -> tuple:
        """All that a graph holds for good: shapes, modes, options, and where tensors lie."""
        tensors = [t for network in self._networks for t in (*network.parameters(), *network.buffers())]
        moments = [v for o in self._optimizers for values in o.state.values() for v in values.values()]
        options = [(k, v) for o in self._optimizers for g in o.param_groups for k, v in g.items() if k not in _PER_STEP]
        return (
            *(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in inputs),
            *((t.data_ptr(), t.requires_grad) for t in tensors),
            *(_token(value) for value in moments),
            *((name, _token(value)) for name, value in options),
            *(
                (module.training, module.__dict__.get("momentum"), module.__dict__.get("p"))
                for network in self._networks
                for module in network.modules()
            ),
            torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
            self._settings(),
        )

    def _run_aside(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """A step on a side stream, so that nothing which outlives it is bound to the stream that a capture leaves."""
        device = _device_of(inputs)
        current = torch.cuda.current_stream(device)
        if self._aside is None or self._aside.device != device:  # the networks may have moved
            self._aside, self._graph, self._captured = torch.cuda.Stream(device), None, None
        self._aside.wait_stream(current)
        with torch.cuda.stream(self._aside), self._rates.on_device(device):
            if self._steps < WARM_UP - 1:
                metrics = self._update(*inputs)
            else:  # looked at first, because a capture that such a wait breaks off may leave torch's allocator unusable
                with _noting_waits() as places:
                    metrics = self._update(*inputs)
                if places:
                    self._failure = f"{places[0]} waits for the device, which a graph cannot"
        current.wait_stream(self._aside)
        for value in metrics.values():
            value.record_stream(current)
        return metrics

    def _capture(self, inputs: Inputs) -> bool:
        """Records a step, which changes nothing yet; False where it cannot be recorded."""
        self._graph = self._captured = None  # its memory first
        device = _device_of(inputs)
        self._inputs = [None if tensor is None else torch.empty_like(tensor) for tensor in inputs]
        torch.clear_autocast_cache()  # a copy of a weight from before would be used for good
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(device)
        # On a stream of this device: torch's own one for captures is of whichever device was current at the first
        # capture. Threads that load images may go on using the device.
        recording = torch.cuda.graph(
            graph, stream=self._aside or torch.cuda.Stream(device), capture_error_mode="thread_local"
        )
        try:
            with torch.cuda.device(device), self._rates.on_device(device, capturable=True), recording:
                metrics = self._update(*self._inputs)
                self._values = torch.stack(list(metrics.values()))
        except RuntimeError as error:
            with torch.cuda.device(device):
                torch.cuda.set_stream(before)  # a capture that was broken off leaves its own
            # Where the end of the capture fails too, it says less than what broke it off.
            ended_so = "during capture" in str(error) and error.__context__ is not None
            cause = error.__context__ if ended_so else error
            self._failure = f"it cannot be captured: {(str(cause) or type(cause).__name__).splitlines()[0]}"
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)  # gradients of a capture that was given up hold nothing
            return False
        self._names = list(metrics)
        self._graph = graph
        return True

    def _replay(self, inputs: Inputs) -> dict[str, Tensor]:
        for kept, tensor in zip(self._inputs, inputs, strict=True):
            if tensor is not None:
                kept.copy_(tensor)
        self._rates.send()
        self._graph.replay()
        torch.clear_autocast_cache()  # the weights are other ones now
        return dict(zip(self._names, self._values.clone(), strict=True))  # the next replay writes over the originals


_PER_STEP = ("params", "lr")


class _Rates:
    """The learning rates as tensors that a graph reads, while the optimizers keep whatever their owner gave them.

    The steps before a capture read them too: a rate rounded to float32, as fused optimizers read it on a device, is
    another number, and a run that is resumed takes some of its steps before a capture that one never stopped replays.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._buffers: list[Tensor] = []

    @contextmanager
    def on_device(self, device: torch.device, capturable: bool = False) -> Iterator[None]:
        """Inside, every group's rate is a tensor on the device, and it may be captured where that is said."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        if len(self._buffers) != len(groups) or any(buffer.device != device for buffer in self._buffers):
            self._buffers = [torch.empty((), dtype=torch.float32, device=device) for _ in groups]
        before = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in groups]
        self.send()
        try:
            for group, buffer in zip(groups, self._buffers, strict=True):
                group["lr"] = buffer
                if capturable and "capturable" in group:  # a fused optimizer counts its steps on the device in any case
                    group["capturable"] = True
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)

    def send(self) -> None:
        """Copies the rates as they are now, without waiting for the device."""
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        for group, buffer in zip(groups, self._buffers, strict=True):
            rate = group["lr"]
            buffer.copy_(rate, non_blocking=True) if isinstance(rate, Tensor) else buffer.fill_(rate)


@contextmanager
def _noting_waits() -> Iterator[list[str]]:
    """Lists where, inside, this thread waits for the device."""
    places: list[str] = []
    mode, thread = torch.cuda.get_sync_debug_mode(), threading.get_ident()
    with warnings.catch_warnings():
        pass_on = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
            if "called a synchronizing CUDA operation" not in str(message):
                pass_on(message, category, filename, lineno, *more)
            elif threading.get_ident() == thread:  # others, which load images, may
                places.append(f"{filename}:{lineno}")

        warnings.showwarning = show
        warnings.filterwarnings("always", ".*called a synchronizing CUDA operation")
        warnings.filterwarnings("ignore", ".*Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _device_of(inputs: Inputs) -> torch.device:
    return next(tensor.device for tensor in inputs if tensor is not None)


def _token(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_token, value))
    return value.data_ptr() if isinstance(value, Tensor) else value
