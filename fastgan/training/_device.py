"""Where a run computes, and in which precision."""

from __future__ import annotations

import torch

from fastgan.errors import UserError

__all__ = ["choose_device", "choose_precision"]


def choose_device(device: str) -> torch.device:
    """The device by its name; "auto" is the GPU where there is one.

    Raises:
        UserError: where there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"device must be 'auto', 'cpu' or 'cuda', but it is {device!r}; give one of them.") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is not one that fastgan trains on; give 'cpu' or 'cuda'.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is {device!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            "give 'cpu' or 'auto'."
        )
    return chosen


def choose_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """ "fp32" or "bf16", and why."""
    if precision != "auto":
        return precision, "as asked"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bf16", "this GPU computes in it"
        return "fp32", "this GPU has no bf16 units"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return "bf16", "this CPU computes in it"
    return "fp32", "this CPU has neither AVX512-BF16 nor AMX"
