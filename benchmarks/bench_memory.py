"""Memory kept for backward by the DCGAN tutorial's networks at its own size, as `fastgan bench` counts it."""

import pytest

from fastgan.proof import Proof

BARS = {"discriminator": 0.70, "both": 0.60}  # fastgan's share of eager's bytes, at most


@pytest.fixture(scope="module")
def memory():
    return Proof(batch_size=64).memory()


@pytest.mark.parametrize("part", ["generator", "discriminator", "both"])
def test_memory(memory, part, capsys):
    found = memory[part]
    with capsys.disabled():
        mebibytes = {name: found[name] / 2**20 for name in ("torch.nn", "fastgan.layers")}
        print(
            f"\n{part:<14}", *(f"{name} {value:.2f} MiB " for name, value in mebibytes.items()), f"{found['ratio']:.4f}"
        )
    assert found["ratio"] <= BARS.get(part, 1)
