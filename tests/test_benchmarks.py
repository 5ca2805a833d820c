"""The machinery of benchmarks/report.py, at a size at which its times mean nothing."""

import json
import math
from pathlib import Path

import bench_layers
import bench_small
import bench_step
import parts
import pytest
import report
import tables
import torch

from fastgan import _native, tutorial
from fastgan.proof import Proof

pytestmark = pytest.mark.skipif(not _native.loaded("cpu"), reason="it compares the native kernels")

PROOF = Proof(batch_size=2, width=4, rounds=1)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def record():
    """A whole record, through JSON as it is kept."""
    return json.loads(json.dumps(report.measure(PROOF, compiled=False)))


def test_small_networks_are_fused_where_all_is(rule_of_sizes):
    for name, (make, shape) in bench_small.NETWORKS.items():
        calls = {}
        for contender in bench_small.CONTENDERS:
            _native.reset_counters()
            bench_small._step(contender, make, shape, None)()
            calls[contender] = sum(_native.counters().values())
        assert calls["torch.nn"] == 0 and calls["all fused"] >= max(1, calls["fastgan.layers"]), (name, calls)


def test_every_setting_has_every_contender(record):
    found = {(row["precision"], row["format"], row["contender"]) for row in record["step"]}
    assert found == {(*setting, name) for setting in bench_step.SETTINGS for name in parts.CONTENDERS}
    assert {row["contender"] for row in record["capped"]["rows"]} == {"torch.nn", "fastgan.layers"}
    assert len(record["sampling"]) == 2 * 3 * len(bench_step.SAMPLES)
    assert len(record["passes"]) == 2 * 10 * 3
    assert len(record["small"]) == 2 * len(bench_small.NETWORKS)


def test_every_row_of_ours_has_its_error_and_its_kernels(record):
    rows = record["step"] + record["capped"]["rows"] + record["sampling"]
    for row in rows:
        assert row["ms"] > 0 and row["error"] is not None
        assert bool(row["kernels"]) == (row["contender"] != "torch.nn")
    for row in record["layers"] + record["passes"]:
        assert row["kernels"] and row["error"] >= 0


def test_the_capped_step_runs_capped_kernels(record):
    assert record["capped"]["cpu_isa"] in ("avx2", "scalar")
    ours = [row for row in record["capped"]["rows"] if row["contender"] == "fastgan.layers"]
    assert all("avx512" not in kernel for row in ours for kernel in row["kernels"])


def test_the_blocks_are_the_tutorials():
    cases = bench_layers.blocks(2, 4)
    assert [case.name for case in cases] == [f"{network}{i}" for network in "GD" for i in range(1, 6)]
    weights = [
        tuple(module.weight.shape)
        for network in tutorial.networks(torch.nn, 4)
        for module in network
        if module.__class__.__name__.startswith("Conv")
    ]
    assert [case.tensors["weight"] for case in cases] == weights
    assert cases[4].input == (2, 4, 32, 32) and cases[9].input == (2, 32, 4, 4)


def test_needed_operations_are_counted_by_hand():
    """A step runs the generator forward and for both gradients; the discriminator three times, once without wgrad."""
    passes = {case.name: bench_layers.needed_gflop(case) / 3 for case in bench_layers.blocks(2, 4)}
    middle = 2 * 2 * (8 * 8) * (16 * 8 * 16) * 1e-9  # images, multiply and add, pixels of the small side, taps
    assert math.isclose(passes["D3"], middle) and math.isclose(passes["G3"], middle)
    generator = sum(3 * value for name, value in passes.items() if name[0] == "G") - passes["G1"]  # of the latent: none
    discriminator = sum(8 * value for name, value in passes.items() if name[0] == "D") - 2 * passes["D1"]
    assert math.isclose(bench_step.needed_gflop(PROOF), generator + discriminator)


def test_parts_add_up_to_a_step(record):
    assert len(record["parts"]) == 6
    for row in record["parts"]:
        assert tuple(row["ms"]) == parts.PARTS
        # What is left of eager's whole step may be nothing: its parts are timed in another step.
        assert all(row["ms"][part] > 0 or part == "other" for part in parts.PARTS), row


def test_parts_are_of_what_they_say():
    network = torch.nn.Conv2d(2, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def step():
        network(torch.ones(1, 2, 4, 4, requires_grad=True)).sum().backward()
        optimizer.step()

    seen = parts.step_parts(step, native=False)
    timed = {part for part, seconds in seen.items() if seconds} - {
        "other"
    }  # what is left of the whole, which may be nothing
    assert timed == {"conv fwd", "dgrad", "wgrad", "optimizer"}


def test_timed_apart_gradients_are_the_same():
    network = torch.nn.Conv2d(2, 3, 3)
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    leaves = [x, *network.parameters()]
    expected = torch.autograd.grad(network(x).square().sum(), leaves)
    found = []
    parts.step_parts(lambda: found.extend(torch.autograd.grad(network(x).square().sum(), leaves)), native=False)
    # Once undisturbed, once with every operator timed and the gradients computed apart.
    torch.testing.assert_close(tuple(found), (*expected, *expected))


def test_a_wrong_step_is_not_timed(monkeypatch):
    good = {"losses": 0.0, "update": 0.0}
    errors = {"torch.nn": good, "fastgan.layers": {**good, "update": 0.1}, "AdversarialStep": good}
    monkeypatch.setattr(Proof, "errors", lambda *_: errors)
    with pytest.raises(AssertionError, match=r"fastgan.layers, float32 contiguous: update 1.0e-01 from float64"):
        bench_step.measure(PROOF, compiled=False)


def test_tables_are_of_the_record(record):
    text = tables.everything(record)
    assert record["machine"]["device_name"] in text and "held to AVX2" in text
    ours, eager = (
        next(row["ms"] for row in record["step"] if row["contender"] == name) for name in ("fastgan.layers", "torch.nn")
    )
    assert f"{math.floor(eager / ours * 100) / 100:.2f}x" in tables.readme(record)
    for row in record["layers"]:
        assert f"| {row['layer']}, {row['precision']} " in text


def test_the_pages_marks_can_be_filled_again(record):
    for page in ("README.md", "docs/performance.md"):
        text = (ROOT / page).read_text()
        assert "<!-- benchmark:" in text
        once = tables.fill(text, record)
        assert once != text and tables.fill(once, record) == once


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- benchmark:speed -->", "The mark benchmark:speed names no section; there are step, "),
        ("<!-- benchmark:step -->", "has no <!-- /benchmark:step --> after it; add one."),
    ],
)
def test_a_wrong_mark_is_said(record, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        tables.fill(text, record)


def test_a_record_makes_the_documentation(record, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a <!-- benchmark:readme -->old<!-- /benchmark:readme --> b")
    (tmp_path / "docs/performance.md").write_text("<!-- benchmark:step --><!-- /benchmark:step -->")
    report.write_docs(record, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("a <!--") and readme.endswith("--> b") and "old" not in readme
    assert "## The whole step" in (tmp_path / "docs/performance.md").read_text()
    assert (tmp_path / report.PLOT).read_bytes().startswith(b"\x89PNG")
