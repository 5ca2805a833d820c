"""The cross-entropies against torch's, at the edges too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan import _native, ops
from fastgan.errors import UserError

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EDGES = torch.tensor([0.0, 1.0, 1e-30, 1e-7, 0.5, 1 - 1e-7, 0.25, 0.999])


def _loss_and_grad(function, input, *args, **options):
    leaf = input.detach().requires_grad_()
    loss = function(leaf, *args, **options)
    (grad,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss))
    return loss.detach(), grad


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["bce", "bce_with_logits"])
def test_equals_torch(op, dtype, weighted, reduction):
    torch.manual_seed(0)
    _native.reset_counters()
    # At the edges float16's own gradients overflow in torch.
    probabilities = EDGES.repeat(4) if dtype != torch.float16 else torch.linspace(0.02, 0.98, 32)
    input = probabilities if op == "bce" else torch.cat([torch.randn(20) * 3, torch.tensor([0.0, 50, -50, 800, -800])])
    input, target = input.to(dtype), torch.rand(len(input)).round(decimals=1).to(dtype)
    options = {"reduction": reduction}
    if weighted:
        options["weight"] = torch.rand(len(input)).to(dtype)
        if op == "bce_with_logits":
            options["pos_weight"] = torch.tensor([3.0], dtype=dtype)
    found = _loss_and_grad(getattr(ops, op), input, target, **options)
    assert any(name.startswith("bce/forward") for name in _native.counters())
    expected = _loss_and_grad(getattr(ops, f"{op}_reference"), input, target, **options)
    # 16 bits: torch rounds the elements before it sums them, fastgan only the sum.
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_clamp_at_zero_and_one_is_torchs():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert ops.bce(p, t, reduction="none").tolist() == [100.0, 100.0, 0.0, 0.0]


def test_saturated_logits_are_finite_and_have_gradients():
    logits = torch.tensor([-1e4, 1e4, -80.0, 80.0])
    loss, grad = _loss_and_grad(ops.bce_with_logits, logits, torch.tensor([1.0, 0.0, 1.0, 0.0]), reduction="none")
    assert loss.tolist() == [1e4, 1e4, 80.0, 80.0]
    assert grad.tolist() == [-1.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("targets", "weights"), [((1,), None), ((1, 0), None), ((0.9, 0), (1, 2)), ((0,), (-1,))])
def test_adversarial_bce(targets, weights, dtype, from_logits):
    torch.manual_seed(1)
    scores = torch.randn(12, 1, 3).to(dtype)
    scores = scores if from_logits else scores.sigmoid()
    leaf = scores.clone().requires_grad_()
    found = ops.adversarial_bce(leaf, targets, weights=weights, from_logits=from_logits)
    (grad,) = torch.autograd.grad(found.loss * 3, leaf)
    wide = scores.double().requires_grad_()
    function = F.binary_cross_entropy_with_logits if from_logits else F.binary_cross_entropy
    parts = wide.chunk(len(targets))
    losses = torch.stack([function(p, torch.full_like(p, t)) for p, t in zip(parts, targets, strict=True)])
    loss = (losses * torch.tensor(weights or [1.0] * len(targets), dtype=torch.float64)).sum()
    (expected_grad,) = torch.autograd.grad(loss * 3, wide)
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    sum_type = torch.promote_types(dtype, torch.float32)
    for value, truth in ((found.loss, loss), (found.losses, losses)):
        assert value.dtype == sum_type
        torch.testing.assert_close(value.double(), truth, rtol=max(tolerance * 1e-3, 1e-6), atol=1e-6)
    probabilities = torch.stack([(p.sigmoid() if from_logits else p).mean() for p in parts])
    torch.testing.assert_close(found.probability.double(), probabilities, rtol=1e-5, atol=1e-6)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double(), expected_grad, rtol=tolerance, atol=tolerance)
    assert not found.losses.requires_grad
    assert not found.probability.requires_grad


def test_scaled_float16_gradients_neither_overflow_nor_vanish():
    logits = torch.linspace(6, 12, 60_000).half().requires_grad_()
    (ops.adversarial_bce(logits, (1.0,)).loss * 65536).backward()
    wide = logits.detach().double().requires_grad_()
    (ops.adversarial_bce_reference(wide, (1.0,)).loss * 65536).backward()
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=2e-2, atol=1e-7)


@pytest.mark.parametrize("op", ["bce", "bce_with_logits"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_second_derivatives(op, reduction):
    target = torch.rand(5, dtype=torch.float64)
    input = torch.rand(5, dtype=torch.float64).mul_(0.8).add_(0.1).requires_grad_()
    function = lambda x: getattr(ops, op)(x, target, reduction=reduction)  # noqa: E731
    assert torch.autograd.gradcheck(function, input)
    assert torch.autograd.gradgradcheck(function, input)


def test_second_derivative_of_adversarial_bce():
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ops.adversarial_bce(x, (1, 0)).loss, logits)


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.bce(torch.full((4,), 0.3, dtype=torch.bfloat16), torch.ones(4))
        parts = ops.adversarial_bce(torch.randn(4, dtype=torch.bfloat16), (1, 0))
    assert loss.dtype == parts.loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.bce(torch.tensor([1.5]), torch.ones(1)), RuntimeError, "between 0 and 1"),
        (lambda: ops.bce(torch.rand(3), torch.ones(4)), UserError, r"target has shape \(4,\)"),
        (lambda: ops.bce(torch.rand(3), torch.ones(3), reduction="avg"), UserError, "none, mean or sum"),
        (lambda: ops.adversarial_bce(torch.rand(5), (1, 0)), UserError, "2 equal parts"),
        (lambda: ops.adversarial_bce(torch.rand(4), (1, 0), weights=(1,)), UserError, "2 targets and 1 weights"),
        (lambda: ops.adversarial_bce(torch.rand(4), ()), UserError, "0 equal parts"),
        (lambda: ops.adversarial_bce(torch.tensor([2.0]), from_logits=False), RuntimeError, "between 0 and 1"),
    ],
)
def test_bad_input_is_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
