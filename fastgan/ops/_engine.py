"""Which engine an operator runs on: the one place where that is decided.

``native`` is this package's kernels, ``aten`` is torch's own, through each operator's plain-torch form.

The rule under ``FASTGAN_ENGINE=auto`` (the default):

- CPU: native, for every shape and the four floating-point dtypes. Of the convolution inside a block ``engine_for`` in
  csrc/conv/engine.cpp chooses, by measurement: ours where it was faster, aten's otherwise. ``fastgan doctor`` shows
  that rule. ``FASTGAN_ENGINE=native`` takes ours wherever groups are 1.
  Runs that are too small to gain by it go to aten too, modules and all: :func:`is_worth_fusing`.
- CUDA: aten. The CUDA kernels are built and can be forced, but none has a recorded run on a device yet, and a kernel
  without one is never the default. ``make gpu-check`` makes the record.
- Any other device: aten.

``FASTGAN_ENGINE=native`` forces the native kernels and raises where there is none; ``aten`` never uses them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from fastgan import _native
from fastgan.errors import UserError, strict
from fastgan.ops.blocks import Block

Engine = Literal["auto", "native", "aten"]

_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def _mode_from_environment() -> Engine:
    mode = os.environ.get("FASTGAN_ENGINE") or "auto"
    if mode not in ("auto", "native", "aten"):
        raise UserError(f"FASTGAN_ENGINE={mode!r} is unknown; choose auto, native or aten.")
    return mode


mode: Engine = _mode_from_environment()


def use_native(op: str, input: Tensor) -> bool:
    """Whether ``op`` on ``input`` runs on a native kernel.

    Raises:
        RuntimeError: under ``FASTGAN_ENGINE=native`` where there is no native kernel for it, and under
            ``FASTGAN_STRICT=1`` where the rule chose one that could not be loaded.
    """
    device = input.device.type
    if _rule(device) is not None:
        return False
    reason = _why_not(device, input)
    if reason is None:
        return True
    if mode == "native" or (strict() and input.dtype in _DTYPES):
        raise RuntimeError(f"fastgan.ops.{op} has no native kernel to run here: {reason}")
    return False


def reads_float32_weights(device: str) -> bool:
    """Whether convolutions in bfloat16 mostly run on kernels that round a float32 weight while they pack it.

    On a CPU those are the direct ones, which the rule in csrc/conv/engine.cpp prefers where there is AMX.
    """
    if _rule(device) is not None or not _native.loaded(device):
        return False
    return device == "cuda" or (device == "cpu" and _native.cpu_isa() == "amx")


def allows_tf32(input: Tensor) -> bool:
    """Whether torch lets a GPU's convolutions of ``input`` round float32 operands to 10 bits, for its tensor cores.

    A compiled graph keeps what was allowed when it was compiled.
    """
    return input.device.type == "cuda" and input.dtype == torch.float32 and _precision_of_convolutions() == "tf32"


def _precision_of_convolutions() -> str:
    cudnn = torch.backends.cudnn
    settings = (cudnn.conv.fp32_precision, cudnn.fp32_precision, torch.backends.fp32_precision)  # "none" asks the next
    return next((setting for setting in settings if setting != "none"), "ieee")


def _has_autocast(device: str) -> bool:
    """Some device types, such as meta, have none."""
    return torch.amp.is_autocast_available(device)


# torch.compile can trace neither the settings nor what the libraries say, nor under torch 2.11 what has autocast;
# torch.compiler.assume_constant_result would import all of it to set this.
for _function in (_precision_of_convolutions, reads_float32_weights, _native.cuda_covered, _has_autocast):
    _function._dynamo_marked_constant = True


def why_aten(input: Tensor) -> str | None:
    """Why an operator on ``input`` runs on torch's own kernels; None where it runs on native ones."""
    device = input.device.type
    return _rule(device) or _why_not(device, input)


def is_supported(dtype: torch.dtype) -> bool:
    """Whether there are kernels for a dtype."""
    return dtype in _DTYPES


def is_torchs(device: str) -> bool:
    """Whether the rule gives a device to torch's own kernels, whatever is loaded."""
    return _rule(device) is not None


def goes_by_size(input: Tensor) -> bool:
    """Whether the rule asks :func:`is_worth_fusing` about a run on ``input``."""
    return mode == "auto" and input.is_cpu and input.numel() > 0 and _native.loaded("cpu")


LEAST_SAVED = 1 << 19  # elements


def is_worth_fusing(blocks: Sequence[Block], work: Sequence[tuple[int, int]]) -> bool:
    """Whether a run on a CPU saves more time than it costs: 0.1 ms forward and as much backward beyond torch's calls.

    What it saves, in elements of batch-norms as the unit, is by docs/performance.md's measurements:

    - an element for each that passes a batch-norm, or a LeakyReLU that torch's would keep twice;
    - an eighth where a batch-norm alone is before a convolution of torch's: backward normalises once more for that;
    - a quarter for each multiplication that a kernel of fastgan's does in the place of torch's.

    Args:
        blocks: the run's.
        work: of each block the elements that it hands on, and the multiplications of its forward in fastgan's kernels.
    """
    saved = 0
    for i, (block, (elements, multiplications)) in enumerate(zip(blocks, work, strict=True)):
        saved += multiplications // 4
        if block.norm is not None:
            before_torchs = i + 1 < len(blocks) and blocks[i + 1].conv is not None and work[i + 1][1] == 0
            saved += elements // 8 if before_torchs and not block.activation else elements
        elif block.keeps_input():
            saved += elements
    return saved >= LEAST_SAVED


def _rule(device: str) -> str | None:
    if mode == "aten":
        return "FASTGAN_ENGINE=aten"
    if mode == "auto" and device != "cpu":
        return f"the rule gives {device} to torch's kernels; FASTGAN_ENGINE=native forces fastgan's"
    return None


def _why_not(device: str, input: Tensor) -> str | None:
    if input.dtype not in _DTYPES:
        return f"its input has dtype {input.dtype}; float32, float64, bfloat16 and float16 are supported."
    if device not in ("cpu", "cuda"):
        return f"its input is on {input.device}; there are kernels for cpu and cuda."
    if not _native.loaded(device):
        return _native.reason(device)
    if device == "cuda" and not _native.cuda_covered(input.device.index):
        return f"the build does not cover the architecture of {input.device}."
    return None


def is_autocast_enabled(device: str) -> bool:
    """Whether autocast is on for a device type."""
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype to which autocast casts on a device type; None where it is off."""
    return torch.get_autocast_dtype(device) if is_autocast_enabled(device) else None


def no_autocast(device: str) -> AbstractContextManager:
    """Switches autocast off, so that nothing inside is cast a second time."""
    return torch.autocast(device, enabled=False) if is_autocast_enabled(device) else nullcontext()
