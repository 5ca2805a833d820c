"""Segments: what a traced forward calls in sequence, each on the result of the one before, written as one call."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.nn import Module

from fastgan.layers._chain import chains, flatten, run_modules
from fastgan.layers._plan import FunctionalActivation
from fastgan.layers._values import CannotFuse

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


def segments_worth_fusing(graph: fx.Graph, module: Module) -> list[list[fx.Node]]:
    """The nodes of each segment that holds a chain; raises CannotFuse where there is none."""

    def is_worth_it(segment: list[fx.Node]) -> bool:
        steps = flatten(called(node, module) for node in segment)
        return len(segment) > 1 and any(isinstance(part, list) for part in chains(list(steps)))

    found = [segment for segment in _segments(graph, module) if is_worth_it(segment)]
    if not found:
        raise CannotFuse("its forward calls no convolution or batch-norm that a chain can be made of")
    return found


def fuse_segments(graph: fx.Graph, segments: list[list[fx.Node]], module: Module, max_run: int | None) -> None:
    """Writes each segment as one call."""
    for segment in segments:
        first, last = segment[0], segment[-1]
        with graph.inserting_before(first):
            arguments = tuple(
                graph.get_attr(node.target) if node.op == "call_module" else called(node, module) for node in segment
            )
            fused = graph.call_function(run_modules, (first.args[0], arguments, max_run))
        last.replace_all_uses_with(fused)
        for node in reversed(segment):
            graph.erase_node(node)


def _segments(graph: fx.Graph, module: Module) -> list[list[fx.Node]]:
    segments: list[list[fx.Node]] = []
    before = None
    for node in list(graph.nodes):
        if called(node, module) is None:
            before = None
            continue
        if before is not None and node.args[0] is before and len(before.users) == 1:
            segments[-1].append(node)
        else:
            segments.append([node])
        before = node
    return segments


def called(node: fx.Node, module: Module) -> Module | FunctionalActivation | None:
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
