"""Forwards that ``torch.fx`` would get wrong keep their own, and ``explain`` says why."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import relative_error
from own_forwards import Down, Optional, image, ran_natively, results, twins

import fastgan
from fastgan import _native
from fastgan.errors import FastganWarning


class Tricky(Down):
    scale = 1.0

    def __init__(self, trick: str) -> None:
        super().__init__(3, 4)
        self.trick, self.calls, self.factor, self.seen = trick, 0, 2.0, []

    def forward(self, x):
        if self.trick == "counts":
            self.calls += 1
        if self.trick == "remembers":
            self.seen.append(1)
        if self.trick == "stops gradients":
            with torch.no_grad():
                stopped = super().forward(x)
            return stopped + x.sum()
        if self.trick == "draws":
            x = x * torch.rand(())
        if self.trick == "makes a tensor":
            x = x * torch.tensor(self.factor)
        if self.trick == "asks for the type" and isinstance(x, torch.Tensor):
            x = x * 3
        if self.trick == "asks for the shape" and x.shape[0] > 2:
            x = x * 3
        if self.trick == "reads an attribute":
            x = x * self.factor
        if self.trick == "reads its mode" and self.training:
            x = x * 5
        return super().forward(x)


@pytest.mark.parametrize(
    ("trick", "is_fused"),
    [
        ("counts", False), ("remembers", False), ("stops gradients", False),
        ("draws", False), ("makes a tensor", False), ("asks for the type", False),
        ("asks for the shape", False), ("reads an attribute", True), ("reads its mode", True),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::fastgan.errors.FastganWarning")
def test_forwards_that_decide_in_python(trick, is_fused):
    ours, theirs = twins(lambda: Tricky(trick))
    for factor in (2.0, 0.5):
        for network in (ours, theirs):
            network.factor = factor
        _native.reset_counters()
        torch.manual_seed(3)
        found = results(ours)
        torch.manual_seed(3)
        for name, value in results(theirs).items():
            assert relative_error(found[name], value) < 1e-10, name
        assert (ran_natively() > 0) == is_fused
        assert (ours.calls, ours.seen) == (theirs.calls, theirs.seen)
    rows = fastgan.explain(ours, image())
    assert all(row.fused == is_fused and row.reason for row in rows)


def test_optional_arguments_keep_a_modules_own_forward():
    ours, theirs = twins(lambda: Optional(3, 4))
    torch.testing.assert_close(ours(image()), theirs(image()))
    torch.testing.assert_close(ours(image(), image()), theirs(image(), image()))
    assert "optional argument 'y'" in fastgan.explain(ours)[0].reason


def test_doubt_is_said_once():
    ours, _ = twins(lambda: Tricky("asks for the type"))
    with pytest.warns(FastganWarning, match="Tricky unfused, because its forward does something else"):
        ours(image())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(image())
