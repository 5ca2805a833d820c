"""Binary cross-entropy: on probabilities, on logits, and as the two sides of a GAN use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import _native
from fastgan.errors import UserError
from fastgan.ops import _engine, _plain
from fastgan.ops._meta import accumulate_dtype

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


class AdversarialBCE(NamedTuple):
    """What :func:`adversarial_bce` returns."""

    loss: Tensor
    """0-d: the weighted sum of ``losses``. The only part with a gradient."""
    losses: Tensor
    """[parts]: the mean cross-entropy of each part of the batch."""
    probability: Tensor
    """[parts]: the mean of D(x) over each part of the batch."""


def bce(input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """``F.binary_cross_entropy(input, target, weight, reduction=reduction)``, in float32 or wider also under autocast.

    -(t max(log p, -100) + (1 - t) max(log(1 - p), -100)), torch's formula with its clamp. Differentiable twice.

    Args:
        input: probabilities p in [0, 1], any shape.
        target: t, the same shape and dtype.
        weight: rescales each element's loss; broadcast to the input.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        UserError: if the reduction is unknown or the shapes differ.
        RuntimeError: if an element of ``input`` is not a probability.
    """
    return _bce(input, target, weight, None, False, reduction)


def bce_reference(input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """:func:`bce` in plain torch."""
    return F.binary_cross_entropy(input, target, weight, reduction=reduction)


def bce_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)``.

    The cross-entropy of sigmoid(x), computed so that nothing overflows or cancels. Differentiable twice.

    Args:
        input: logits x, any shape.
        target: t, the same shape.
        weight: rescales each element's loss; broadcast to the input.
        pos_weight: rescales the positive term; broadcast to the input.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        UserError: if the reduction is unknown or the shapes differ.
    """
    return _bce(input, target, weight, pos_weight, True, reduction)


def bce_with_logits_reference(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """:func:`bce_with_logits` in plain torch."""
    return F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)


def adversarial_bce(
    input: Tensor,
    targets: Sequence[float] = (1.0,),
    *,
    weights: Sequence[float] | None = None,
    from_logits: bool = True,
) -> AdversarialBCE:
    """The cross-entropy of a discriminator's output against constant labels, its gradient and D(x), in one kernel.

    The batch is cut into ``len(targets)`` equal parts. For real and generated images judged in one batch,
    ``targets=(1, 0)`` is the discriminator's loss H(1, D(x)) + H(0, D(G(z))); ``targets=(1,)`` on generated images is
    the generator's non-saturating loss, and ``targets=(0,), weights=(-1,)`` the original minimax one.

    Args:
        input: [N, ...], logits, or probabilities where ``from_logits`` is False.
        targets: one label in [0, 1] for each part.
        weights: the factor of each part's loss in the sum; 1 by default.
        from_logits: False takes probabilities, by torch's formula with its clamp.

    Raises:
        UserError: if the batch cannot be divided, or there are not as many weights as targets.

    Source: Goodfellow et al., "Generative Adversarial Nets", 2014.
    """
    targets, weights = _checked_labels(input, targets, weights)
    with _engine.no_autocast(input.device.type):
        if not _engine.use_native("adversarial_bce", input) or input.numel() == 0:
            return adversarial_bce_reference(input, targets, weights=weights, from_logits=from_logits)
        if torch.is_grad_enabled() and input.requires_grad:
            return AdversarialBCE(*_AdversarialBCE.apply(input, targets, weights, from_logits))
        losses, probability, _ = torch.ops.fastgan._adversarial_bce.default(input, targets, weights, from_logits)
        return AdversarialBCE(_weighted_sum(losses, weights), losses, probability)


def adversarial_bce_reference(
    input: Tensor,
    targets: Sequence[float] = (1.0,),
    *,
    weights: Sequence[float] | None = None,
    from_logits: bool = True,
) -> AdversarialBCE:
    """:func:`adversarial_bce` in plain torch."""
    targets, weights = _checked_labels(input, targets, weights)
    parts = _widened(input).chunk(len(targets))
    function = F.binary_cross_entropy_with_logits if from_logits else F.binary_cross_entropy
    losses = torch.stack(
        [function(part, torch.full_like(part, target)) for part, target in zip(parts, targets, strict=True)]
    )
    probabilities = [(part.sigmoid() if from_logits else part).mean() for part in parts]
    return AdversarialBCE(_weighted_sum(losses, weights), losses.detach(), torch.stack(probabilities).detach())


def _checked_labels(
    input: Tensor, targets: Sequence[float], weights: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    targets = [float(target) for target in targets]
    weights = [1.0] * len(targets) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(targets):
        raise UserError(
            f"there are {len(targets)} targets and {len(weights)} weights; give one weight for each target."
        )
    if not targets or input.dim() < 1 or input.shape[0] % len(targets):
        raise UserError(
            f"input of shape {tuple(input.shape)} cannot be divided into {len(targets)} equal parts along its first "
            "dimension; give as many real as generated images."
        )
    return targets, weights


def _weighted_sum(losses: Tensor, weights: Sequence[float]) -> Tensor:
    """Without a tensor of the weights, which would wait for a GPU, and could not be captured there."""
    if all(weight == 1 for weight in weights):
        return losses.sum()
    return torch.stack([weight * loss for weight, loss in zip(weights, losses.unbind(), strict=True)]).sum()


def _widened(input: Tensor) -> Tensor:
    return input.to(accumulate_dtype(input.dtype))


def _bce(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    from_logits: bool,
    reduction: str,
) -> Tensor:
    if reduction not in _REDUCTIONS:
        raise UserError(f"reduction={reduction!r} is unknown; choose none, mean or sum.")
    if input.shape != target.shape:
        raise UserError(
            f"target has shape {tuple(target.shape)} and input {tuple(input.shape)}; the shapes must be equal."
        )
    device = input.device.type
    if _engine.is_autocast_enabled(device):
        with _engine.no_autocast(device):
            input, target = _widened(input), _widened(target)
            weight, pos_weight = (None if t is None else _widened(t) for t in (weight, pos_weight))
            return _bce(input, target, weight, pos_weight, from_logits, reduction)
    constants = (target, weight, pos_weight)
    if (
        not _engine.use_native("bce", input)
        or input.numel() == 0
        or any(t is not None and (t.requires_grad or t.dtype != input.dtype) for t in constants)
    ):
        return _bce_reference(input, target, weight, pos_weight, from_logits, reduction)
    weight, pos_weight = (None if t is None else t.expand_as(input) for t in (weight, pos_weight))
    arguments = (target, weight, pos_weight, from_logits, reduction)
    if torch.is_grad_enabled() and input.requires_grad:
        return _BCE.apply(input, *arguments)
    return torch.ops.fastgan._bce.default(input, *arguments[:-1], _REDUCTIONS[reduction])


def _bce_reference(input, target, weight, pos_weight, from_logits: bool, reduction: str) -> Tensor:
    if from_logits:
        return bce_with_logits_reference(input, target, weight, pos_weight, reduction)
    return bce_reference(input, target, weight, reduction)


class _BCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight, pos_weight, from_logits, reduction):
        ctx.save_for_backward(input, target, weight, pos_weight)
        ctx.options = (from_logits, reduction)
        return torch.ops.fastgan._bce.default(input, target, weight, pos_weight, from_logits, _REDUCTIONS[reduction])

    @staticmethod
    def backward(ctx, grad_output):
        input, target, weight, pos_weight = ctx.saved_tensors
        from_logits, reduction = ctx.options
        if _plain.is_asked_for(grad_output):

            def loss(input: Tensor) -> Tensor:
                return _bce_reference(input, target, weight, pos_weight, from_logits, reduction)

            (grad,) = _plain.gradients(loss, [input], [True], grad_output)
        else:
            grad = torch.ops.fastgan._bce_backward.default(
                grad_output, input, target, weight, pos_weight, from_logits, _REDUCTIONS[reduction]
            )
        return grad, None, None, None, None, None


class _AdversarialBCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, targets, weights, from_logits):
        losses, probability, grad = torch.ops.fastgan._adversarial_bce.default(input, targets, weights, from_logits)
        ctx.save_for_backward(input, grad)
        ctx.options = (targets, weights, from_logits)
        ctx.mark_non_differentiable(losses, probability)
        ctx.set_materialize_grads(False)  # nobody reads what these two would get
        return _weighted_sum(losses, weights), losses, probability

    @staticmethod
    def backward(ctx, grad_loss, _grad_losses, _grad_probability):
        if grad_loss is None:
            return None, None, None, None
        input, grad = ctx.saved_tensors
        if _plain.is_asked_for(grad_loss):
            targets, weights, from_logits = ctx.options

            def loss(input: Tensor) -> Tensor:
                return adversarial_bce_reference(input, targets, weights=weights, from_logits=from_logits).loss

            return (*_plain.gradients(loss, [input], [True], grad_loss), None, None, None)
        # In float32 until here: a scaled loss would overflow float16, and a small gradient vanish in it.
        return torch.mul(grad, grad_loss, out=torch.empty_like(grad, dtype=input.dtype)), None, None, None


if _native.loaded("cpu"):

    @torch.library.register_fake("fastgan::_bce")
    def _(input, target, weight, pos_weight, from_logits, reduction):
        return input.new_empty(input.shape if reduction == 0 else ())

    @torch.library.register_fake("fastgan::_bce_backward")
    def _(grad_output, input, target, weight, pos_weight, from_logits, reduction):
        return input.new_empty(input.shape)

    @torch.library.register_fake("fastgan::_adversarial_bce")
    def _(input, targets, weights, from_logits):
        dtype = accumulate_dtype(input.dtype)
        parts = len(targets)
        losses, probability = (input.new_empty(parts, dtype=dtype) for _ in range(2))
        return losses, probability, input.new_empty(input.shape, dtype=dtype)
