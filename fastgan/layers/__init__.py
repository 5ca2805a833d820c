"""A ``torch.nn`` namespace: ``import fastgan.layers as nn`` instead of ``import torch.nn as nn``.

Every name of ``torch.nn`` works. The classes that this module defines are fastgan's own: subclasses of torch's with the
same arguments and the same ``state_dict``, which run fused where they can, and as torch's otherwise.
"""

from __future__ import annotations

import torch.nn
from torch.nn import *  # noqa: F403

from fastgan.layers import _alias
from fastgan.layers._blocks import ConvBNAct2d, ConvTransposeBNAct2d
from fastgan.layers._losses import BCELoss, BCEWithLogitsLoss
from fastgan.layers._modules import BatchNorm2d, Conv2d, ConvTranspose2d, LeakyReLU, ReLU
from fastgan.layers._sequential import Sequential

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm2d",
    "Conv2d",
    "ConvBNAct2d",
    "ConvTranspose2d",
    "ConvTransposeBNAct2d",
    "LeakyReLU",
    "ReLU",
    "Sequential",
]
__all__ += [name for name in dir(torch.nn) if not name.startswith("_") and name not in __all__]

_alias.install()


def __getattr__(name: str):
    try:
        return getattr(torch.nn, name)
    except AttributeError:
        raise AttributeError(f"neither fastgan.layers nor torch.nn has {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*dir(torch.nn), *__all__})
