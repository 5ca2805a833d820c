"""A fused model in eval mode leaves PyTorch as standard operators, with the same numbers."""

from __future__ import annotations

import pytest
import torch

import fastgan
import fastgan.layers
from fastgan import models


def _generator(kind: str):
    torch.manual_seed(0)
    generator, discriminator = models.build("dcgan", image_size=32, channels=3, latent_dim=16, width=8)
    for network in (generator, discriminator):  # statistics that are not those of a new network
        network(torch.randn(8, *((16,) if network is generator else (3, 32, 32))))
    if kind == "unfused":
        fastgan.unfuse(generator)
    return generator.eval()


@pytest.mark.parametrize("kind", ["fused", "unfused"])
def test_torch_export(kind):
    generator = _generator(kind)
    z = torch.randn(4, 16)
    program = torch.export.export(generator, (z,), dynamic_shapes=[{0: torch.export.Dim("batch")}])
    assert "fastgan" not in str(program.graph)
    for batch in (1, 4, 7):
        z = torch.randn(batch, 16)
        torch.testing.assert_close(program.module()(z), generator(z), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_onnx(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX export is tested where its packages are installed ('.[test]')")
    import onnx
    import onnxruntime

    generator = _generator("fused")
    path = tmp_path / "generator.onnx"
    z = torch.randn(4, 16)
    torch.onnx.export(generator, (z,), path, dynamo=True, verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: z.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), generator(z).detach(), rtol=1e-4, atol=1e-5)
