"""The forward of a module that calls its children itself, read by ``torch.fx`` and written again with chains fused.

``torch.fx`` runs a forward once on stand-ins, so whatever Python decides there is decided for good. What that was
decided by is noted, and the traced forward runs only while it is the same; what cannot be noted, and what tracing would
leave out or do once instead of each time, is looked for. Where there is doubt, the module keeps its own forward.
"""

from __future__ import annotations

import inspect
import operator
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import Module

from fastgan.errors import warn_once
from fastgan.layers._chain import Step, last_run
from fastgan.layers._reads import Reads, Recorder
from fastgan.layers._segments import called, fuse_segments, segments_worth_fusing
from fastgan.layers._trial import check, unchanged
from fastgan.layers._twin import Twin
from fastgan.layers._values import CannotFuse, first_line

MAX_STATES = 16
_lock = threading.RLock()  # torch.fx changes methods of torch.nn.Module while it traces


class _Variant(NamedTuple):
    reads: Reads
    forward: Callable[..., Any]


class Traced:
    """A module's forwards with chains fused, one for each state of the module in which it was called."""

    def __init__(self, max_run: int | None) -> None:
        self.max_run = max_run
        self.doubt = ""  # why a module went back to its own forward after all
        self._variants: list[_Variant] = []
        self._gave_up = False

    def __reduce__(self) -> tuple:
        return Traced, (self.max_run,)  # what was traced is not worth keeping, and cannot be pickled

    def __deepcopy__(self, memo: dict) -> Traced:
        return Traced(self.max_run)

    def forward_for(self, module: Module, reads: Reads | None = None) -> Callable[..., Any]:
        """``module``'s forward as a function of the module and its inputs, with chains fused.

        Args:
            module: left as it is.
            reads: are noted here.

        Raises:
            CannotFuse: with the reason, where there is nothing to fuse or the forward cannot be traced.
        """
        with _lock:
            graph, twin = _trace(module, reads or Reads(module))
            fuse_segments(graph, segments_worth_fusing(graph, module), module, self.max_run)
            graph.lint()
            return type(fx.GraphModule(twin.root, graph)).forward

    def checked_forward_for(self, module: Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        """The same for the state that the module is in, or its own forward where that is not sure to be right."""
        if self._gave_up:
            return type(module).forward
        forward = self._known(module)
        if forward is None:
            with _lock:
                forward = self._known(module) or self._new(module, inputs)
        return forward

    def _known(self, module: Module) -> Callable[..., Any] | None:
        for variant in self._variants:
            if variant.reads.hold(module):
                return variant.forward
        return None

    def _new(self, module: Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        if len(self._variants) == MAX_STATES:
            self._gave_up = True
            self._variants = []
            return self._own(module, f"it was called in more than {MAX_STATES} states of what its forward reads")
        reads = Reads(module)
        try:
            forward = self.forward_for(module, reads)
            check(module, forward, inputs)
        except CannotFuse as reason:
            forward = self._own(module, str(reason))
        self._variants.append(_Variant(reads, forward))
        return forward

    def _own(self, module: Module, doubt: str) -> Callable[..., Any]:
        self.doubt = doubt
        for child in module.children():
            last_run.pop(child, None)
        warn_once(f"{id(self)}", f"fastgan runs {type(module).__name__} unfused, because {doubt}.")
        return type(module).forward


def segments_of(module: Module) -> list[list[Step]]:
    """What a module's forward calls in sequence, each on the result of the one before, where it is worth fusing.

    Raises:
        CannotFuse: with the reason, where there is nothing to fuse or the forward cannot be traced.
    """
    with _lock:
        graph, _ = _trace(module, Reads(module))
    return [[called(node, module) for node in segment] for segment in segments_worth_fusing(graph, module)]


# ---- tracing --------------------------------------------------------------------------------------------------------


def _trace(module: Module, reads: Reads) -> tuple[fx.Graph, Twin]:
    _check_signature(module)
    twin = Twin(module)
    recorder = Recorder(twin, reads)
    with unchanged(twin):
        graphs = []
        for is_plain in (True, False):
            with _surroundings(is_plain):
                graphs.append(_graph_of(twin.root, recorder))
    if graphs[0].python_code("self").src != graphs[1].python_code("self").src:
        raise CannotFuse("its forward does something else without gradients or under autocast")
    if not reads.hold(module):
        raise CannotFuse("what its forward reads is something else when it is looked up again")
    return graphs[0], twin


def _graph_of(root: Module, recorder: Recorder) -> fx.Graph:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Tracer(recorder).trace(root)
    except CannotFuse:
        raise
    except Exception as error:
        raise CannotFuse(f"torch.fx cannot trace its forward: {first_line(error)}") from None


def _check_signature(module: Module) -> None:
    for parameter in inspect.signature(type(module).forward).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise CannotFuse(f"its forward has the optional argument {parameter.name!r}, which tracing would fix")


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._settings = _settings()

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(self, *args: Any) -> tuple[Any, list[Any]]:
        function, arguments = super().create_args_for_root(*args)
        return self._recorder.recorded(function), arguments

    def call_module(self, m: Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self._recorder.is_here():
            return forward(*args, **kwargs)
        with self._recorder.paused():
            return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
        if not self._recorder.is_here():
            return attr_val
        with self._recorder.paused():
            return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, *args: Any, **options: Any) -> fx.Proxy:
        with self._recorder.paused():
            return super().create_proxy(*args, **options)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):  # those of the module are proxies
            raise CannotFuse("its forward makes a tensor that tracing would fix for good")
        return super().create_arg(a)

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        if _settings() != self._settings:
            raise CannotFuse("its forward switches gradients, autocast or saved tensors, which torch.fx does not see")
        return super().create_node(*args, **options)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """Writes down operators that work in place as what they are, where torch.fx has them make a new tensor."""

    def __getattr__(self, name: str) -> fx.Proxy:
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise CannotFuse(f"its forward sets {name!r} of a tensor, which torch.fx does not see")
        super().__setattr__(name, value)


class _Attribute(fx.proxy.Attribute):
    __getattr__ = _Proxy.__getattr__


def _in_place(operate: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def in_place(value: Any, other: Any) -> Any:
        # Not `operate` itself: torch.fx writes that as a statement, which changes a number for all who have it.
        return operate(value, other)

    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", in_place, (self, other), {})

    in_place.__name__ = operate.__name__
    return record


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _kind in (_Proxy, _Attribute):
        setattr(_kind, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))


# ---- what surrounds a forward ---------------------------------------------------------------------------------------


def _settings() -> tuple:
    """What a forward may switch for a part of itself."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_cache_enabled(),
        torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
        *((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")),
    )


@contextmanager
def _surroundings(is_plain: bool) -> Iterator[None]:
    """With gradients and without autocast, or the other way round."""
    devices = ("cpu", "cuda")
    before = [torch.is_autocast_enabled(device) for device in devices]
    try:
        for device in devices:
            torch.set_autocast_enabled(device, not is_plain)
        with torch.inference_mode(False), torch.set_grad_enabled(is_plain):
            yield
    finally:
        for device, enabled in zip(devices, before, strict=True):
            torch.set_autocast_enabled(device, enabled)
