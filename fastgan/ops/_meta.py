"""Dtypes and memory formats of what native code returns."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format_of(input: Tensor) -> torch.memory_format:
    """The format in which native code writes a tensor like ``input``: torch's rule, as in csrc/common/tensor.h."""
    if input.dim() != 4 or input.stride(1) == 0:
        return torch.contiguous_format
    least = 0
    for dim in (1, 3, 2, 0):
        size, stride = input.shape[dim], input.stride(dim)
        if size == 0 or stride < least or (dim == 0 and least == input.stride(1)):
            return torch.contiguous_format
        least = stride * max(size, 1)
    return torch.channels_last


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics, and of the parameters' gradients."""
    return torch.float64 if dtype == torch.float64 else torch.float32
