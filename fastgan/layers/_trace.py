"""The forward of a module that calls its children itself, read by ``torch.fx`` and written again with chains fused.

``torch.fx`` runs a forward once on stand-ins, so whatever Python decides there is decided for good. What could make
that wrong is looked for: state that tracing changes, random numbers it draws, attributes that change later, and
arguments that a stand-in answers for differently than a tensor. Where there is doubt, the module keeps its own forward.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.nn import Module

from fastgan.errors import warn_once
from fastgan.layers._chain import Step, chains, flatten, run_modules
from fastgan.layers._plan import FunctionalActivation
from fastgan.layers._trial import CannotFuse, check, first_line, unchanged

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.leaky_relu: "leaky_relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
}
_METHODS = {"relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_"}


class Traced:
    """A module's forwards with chains fused, one for each state of the module in which it was called."""

    def __init__(self, max_run: int | None) -> None:
        self.max_run = max_run
        self.doubt = ""  # why a module went back to its own forward after all
        self._checked: dict[tuple, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple:
        return Traced, (self.max_run,)  # what was traced is not worth keeping, and cannot be pickled

    def __deepcopy__(self, memo: dict) -> Traced:
        return Traced(self.max_run)

    def forward_for(self, module: Module) -> Callable[..., Any]:
        """``module``'s forward as a function of the module and its inputs, with chains fused.

        Raises:
            CannotFuse: with the reason, where there is nothing to fuse or the forward cannot be traced.
        """
        graph = _trace(module)
        _fuse_segments(graph, _checked_segments(graph, module), module, self.max_run)
        graph.lint()
        return type(fx.GraphModule(module, graph)).forward

    def checked_forward_for(self, module: Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        """The same for the state that the module is in, or its own forward where that is not sure to be right."""
        state = _state_of(module)
        forward = self._checked.get(state)
        if forward is None:
            try:
                forward = self.forward_for(module)
                check(module, forward, inputs)
            except CannotFuse as reason:
                self.doubt = str(reason)
                warn_once(f"{id(self)}", f"fastgan runs {type(module).__name__} unfused, because {reason}.")
                forward = type(module).forward
            self._checked[state] = forward
        return forward


def _state_of(module: Module) -> tuple:
    """What Python could read in a forward besides tensors: a traced forward holds for this state only."""
    state: list[Any] = [module.training]
    for name, value in module.__dict__.items():
        if not name.startswith("_") and name not in ("training", "forward"):
            state.append((name, _token(value)))
    state += [
        (name, type(child), id(child), getattr(child, "training", None)) for name, child in module._modules.items()
    ]
    return tuple(state)


def _token(value: Any) -> Any:
    match value:
        case bool() | int() | float() | str() | None:
            return value
        case list() | tuple():
            return tuple(map(_token, value))
        case dict():
            return tuple((key, _token(item)) for key, item in value.items())
    return id(value)


# ---- tracing --------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        if not torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            raise CannotFuse("its forward switches gradients or autocast, which torch.fx does not see")
        return super().create_node(*args, **options)


def _trace(module: Module) -> fx.Graph:
    _check_signature(module)
    with unchanged(module):
        graph = _graph_of(module)
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
            raise CannotFuse("its forward makes a tensor that tracing would fix for good")
    return graph


def _graph_of(module: Module) -> fx.Graph:
    plain = [torch.autocast(device, enabled=False) for device in ("cpu", "cuda")]
    try:
        with torch.enable_grad(), plain[0], plain[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Tracer().trace(module)
    except CannotFuse:
        raise
    except Exception as error:
        raise CannotFuse(f"torch.fx cannot trace its forward: {first_line(error)}") from None


def _check_signature(module: Module) -> None:
    for parameter in inspect.signature(type(module).forward).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise CannotFuse(f"its forward has the optional argument {parameter.name!r}, which tracing would fix")


# ---- fusing ---------------------------------------------------------------------------------------------------------


def segments_of(module: Module) -> list[list[Step]]:
    """What a module's forward calls in sequence, each on the result of the one before, where it is worth fusing.

    Raises:
        CannotFuse: with the reason, where there is nothing to fuse or the forward cannot be traced.
    """
    graph = _trace(module)
    return [[_called(node, module) for node in segment] for segment in _checked_segments(graph, module)]


def _checked_segments(graph: fx.Graph, module: Module) -> list[list[fx.Node]]:
    def is_worth_it(segment: list[fx.Node]) -> bool:
        steps = flatten(_called(node, module) for node in segment)
        return len(segment) > 1 and any(isinstance(part, list) for part in chains(list(steps)))

    found = [segment for segment in _segments(graph, module) if is_worth_it(segment)]
    if not found:
        raise CannotFuse("its forward calls no convolution or batch-norm that a chain can be made of")
    return found


def _fuse_segments(graph: fx.Graph, segments: list[list[fx.Node]], module: Module, max_run: int | None) -> None:
    """Writes each segment as one call."""
    for segment in segments:
        first, last = segment[0], segment[-1]
        with graph.inserting_before(first):
            arguments = tuple(
                graph.get_attr(node.target) if node.op == "call_module" else _called(node, module) for node in segment
            )
            fused = graph.call_function(run_modules, (first.args[0], arguments, max_run))
        last.replace_all_uses_with(fused)
        for node in reversed(segment):
            graph.erase_node(node)


def _segments(graph: fx.Graph, module: Module) -> list[list[fx.Node]]:
    segments: list[list[fx.Node]] = []
    before = None
    for node in list(graph.nodes):
        if _called(node, module) is None:
            before = None
            continue
        if before is not None and node.args[0] is before and len(before.users) == 1:
            segments[-1].append(node)
        else:
            segments.append([node])
        before = node
    return segments


def _called(node: fx.Node, module: Module) -> Module | FunctionalActivation | None:
    """What a node calls on one tensor: a child, or an activation."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return module.get_submodule(node.target)
    options = dict(node.kwargs)
    if node.op == "call_function" and (name := _FUNCTIONS.get(node.target)):
        names = {"relu": ["inplace"], "leaky_relu": ["negative_slope", "inplace"]}.get(name, [])
        options |= dict(zip(names, node.args[1:], strict=False))
        inplace = options.pop("inplace", False)
    elif node.op == "call_method" and node.target in _METHODS and len(node.args) == 1:
        name, inplace = node.target.rstrip("_"), node.target.endswith("_")
    else:
        return None
    slope = options.pop("negative_slope", 0.01 if name == "leaky_relu" else 0.0)
    if options or not isinstance(slope, (int, float)):
        return None
    return FunctionalActivation(name, float(slope), bool(inplace))
