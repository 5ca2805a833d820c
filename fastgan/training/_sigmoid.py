"""Whether a discriminator gives probabilities or logits."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["gives_probabilities"]

# What may stand behind the sigmoid and leave probabilities what they are: modules, and the names of autograd's nodes.
_SHAPING_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity)
_SHAPING_NODES = (
    "View",
    "UnsafeView",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Select",
    "Slice",
    "Split",
    "Flatten",
    "Permute",
    "Mean",
    "ToCopy",
)


def gives_probabilities(discriminator: nn.Module, output: Tensor) -> bool:
    """Whether ``output`` is a sigmoid's: by the discriminator's last module, or by what autograd has recorded.

    The first knows fused modules, which are one node to autograd; the second knows ``torch.sigmoid`` in a forward.
    """
    return _ends_in_sigmoid(discriminator) or _made_by_sigmoid(output)


def _ends_in_sigmoid(module: nn.Module) -> bool:
    if getattr(module, "activation", None) == "sigmoid":  # the blocks of fastgan.layers
        return True
    children = [child for child in module.children() if not isinstance(child, _SHAPING_MODULES)]
    return _ends_in_sigmoid(children[-1]) if children else isinstance(module, nn.Sigmoid)


def _made_by_sigmoid(output: Tensor) -> bool:
    node = output.grad_fn
    while node is not None and node.name().startswith(_SHAPING_NODES):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")
