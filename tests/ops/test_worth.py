"""The rule that says which runs are worth fusing on a CPU, and the work that it goes by."""

from __future__ import annotations

import pytest
import torch

from fastgan import _native
from fastgan.ops import _engine
from fastgan.ops.blocks import Block, Conv, Norm, Parameters
from fastgan.ops.run import work_of

pytestmark = [
    pytest.mark.usefixtures("rule_of_sizes"),
    pytest.mark.skipif(not _native.loaded("cpu"), reason="there are no kernels to choose"),
]

NORM = Norm(True, 0.1, 1e-5)
FILTER = Conv((2, 2), (1, 1), (1, 1), 1)  # with 4 x 4
GROUPED = FILTER._replace(groups=2)
UP = FILTER._replace(transposed=True)


def weight(*shape: int) -> Parameters:
    return Parameters(torch.empty(shape))


def test_work_is_elements_and_the_multiplications_of_native_kernels():
    blocks = [
        Block(None, NORM, 1, 0.0),
        Block(FILTER, NORM, 2, 0.2),
        Block(GROUPED, None, 2, 0.2),
        Block(UP, None, 3, 0.0),
    ]
    parameters = [Parameters(), weight(64, 32, 4, 4), weight(64, 32, 4, 4), weight(64, 3, 4, 4)]
    work = work_of(torch.empty(8, 32, 32, 32), blocks, parameters)
    assert [elements for elements, _ in work] == [8 * 32 * 32 * 32, 8 * 64 * 16 * 16, 8 * 64 * 8 * 8, 8 * 3 * 16 * 16]
    ours = [multiplications for _, multiplications in work]
    assert ours[0] == ours[2] == 0  # no convolution, and one in groups, which are torch's
    per_pixel = {1: 64 * 32 * 16, 3: 64 * 3 * 16}
    assert all(ours[i] in (0, 8 * pixels * per_pixel[i]) for i, pixels in ((1, 16 * 16), (3, 8 * 8)))
    assert any(ours)


def test_nothing_is_run():
    _native.reset_counters()
    work_of(torch.empty(2, 32, 8, 8), [Block(FILTER, NORM, 2, 0.2)], [weight(32, 32, 4, 4)])
    assert _native.counters() == {}


@pytest.mark.parametrize("mode", ["auto", "native", "aten"])
@pytest.mark.parametrize("shape, device", [((2, 3, 4, 4), "cpu"), ((0, 3, 4, 4), "cpu"), ((2, 3, 4, 4), "meta")])
def test_where_sizes_decide(engine, mode, shape, device):
    engine(mode)
    assert _engine.goes_by_size(torch.empty(shape, device=device)) is (
        mode == "auto" and device == "cpu" and shape[0] > 0
    )


@pytest.mark.parametrize(
    "blocks, work, saved",
    [
        pytest.param([Block(None, NORM, 1, 0.0)], [(1000, 0)], 1000, id="batch-norm"),
        pytest.param([Block(FILTER, NORM, 0, 0.0)], [(1000, 0)], 1000, id="torch's convolution and batch-norm"),
        pytest.param([Block(FILTER, None, 1, 0.0)], [(1000, 0)], 0, id="torch's convolution"),
        pytest.param([Block(FILTER, None, 2, 0.2)], [(1000, 0)], 1000, id="and a LeakyReLU that keeps its input"),
        pytest.param([Block(FILTER, None, 2, 0.2, inplace=True)], [(1000, 0)], 0, id="and one in place"),
        pytest.param([Block(UP, None, 3, 0.0)], [(1000, 8000)], 2000, id="convolution of ours"),
        pytest.param(
            [Block(None, NORM, 0, 0.0), Block(FILTER, None, 1, 0.0)], [(1000, 0), (5, 0)], 125, id="before torch's"
        ),
        pytest.param(
            [Block(None, NORM, 0, 0.0), Block(FILTER, None, 1, 0.0)], [(1000, 0), (5, 4)], 1001, id="before one of ours"
        ),
        pytest.param(
            [Block(None, NORM, 1, 0.0), Block(FILTER, NORM, 1, 0.0)], [(1000, 0), (500, 0)], 1500, id="two of both"
        ),
    ],
)
def test_what_a_run_saves(monkeypatch, blocks, work, saved):
    monkeypatch.setattr(_engine, "LEAST_SAVED", saved)
    assert _engine.is_worth_fusing(blocks, work)
    monkeypatch.setattr(_engine, "LEAST_SAVED", saved + 1)
    assert not _engine.is_worth_fusing(blocks, work)
