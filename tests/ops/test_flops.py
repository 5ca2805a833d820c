"""FlopCounterMode counts the fused operators as it counts torch's own convolutions."""

from __future__ import annotations

import pytest
import torch
from cases import CONV_BN_ACT, CONV_TRANSPOSE_BN_ACT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastgan import layers


def flops(function, backward: bool) -> tuple[int, set[str]]:
    """The count, and the namespaces of the operators that it is made of."""
    with FlopCounterMode(display=False) as counter:
        output = function()
        if backward:
            output.sum().backward()
    return counter.get_total_flops(), {str(op).split(".")[0] for op in counter.get_flop_counts()["Global"]}


@pytest.mark.parametrize("wanted", ["forward", "input", "weight", "all"])
@pytest.mark.parametrize("case", CONV_BN_ACT + CONV_TRANSPOSE_BN_ACT, ids=lambda case: f"{case.op}-{case.name}")
def test_an_operator_counts_as_its_reference(case, wanted):
    counts = []
    for function in (case.function, case.reference):
        input, tensors, buffers = case.sample(torch.float32)
        leaves = {"input": [input], "weight": [tensors["weight"]], "all": [input, *tensors.values()]}.get(wanted, [])
        for leaf in leaves:
            leaf.requires_grad_()
        call = lambda f=function, i=input, t=tensors, b=buffers: f(i, **t, **b, **case.options)  # noqa: E731
        counts.append(flops(call, bool(leaves)))
    assert counts[0][0] == counts[1][0] > 0
    assert (counts[0][1], counts[1][1]) == ({"fastgan"}, {"aten"})


def test_a_network_counts_as_its_twin():
    """The counter's global hooks have torch's modules run one by one."""

    def network(nn):
        return nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    input = torch.randn(2, 3, 8, 8)
    networks = [network(namespace) for namespace in (layers, nn)]
    counts = [flops(lambda m=m: m(input), True)[0] for m in networks]
    assert counts[0] == counts[1] > 0
