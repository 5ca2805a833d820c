"""A generator in other programs: the same images, without batch-norm, by standard operators."""

from __future__ import annotations

import importlib.util
import logging
import resource

import pytest
import torch
from runs import KINDS, arguments_for, write_run

import fastgan
from fastgan import export, models
from fastgan.errors import UserError
from fastgan.training import TrainConfig, Trainer

SAMPLES = 256
FAMILIES = [kind for kind in KINDS if kind not in ("lenet", "encoder_decoder_plain")]  # whose generators are others'
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.ONNX_PACKAGES),
    reason="ONNX export is tested where its packages are installed ('.[export]')",
)


@pytest.fixture(scope="module")
def gans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: fastgan.load(write_run(folder / kind, kind)) for kind in KINDS}


def images_of(gan, given):
    with torch.no_grad():
        return gan.generator(*given)


@needs_onnx
@pytest.mark.parametrize("kind", FAMILIES)
def test_onnxruntime_agrees_with_torch(gans, kind, tmp_path, capfd):
    import onnx
    import onnxruntime

    gan, path = gans[kind], tmp_path / "generator.onnx"
    difference = export.export(gan, path, "onnx")
    assert difference < 1e-4 and list(tmp_path.iterdir()) == [path]
    assert logging.root.manager.disable == 0 and "".join(capfd.readouterr()) == ""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
    values = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = ["source"] if "encoder" in kind else ["latent", "labels"][: 1 + bool(gan.num_classes)]
    assert [each.name for each in session.get_inputs()] == names
    for n in (SAMPLES, 1):
        given = arguments_for(gan.generator, n)
        (found,) = session.run(["images"], {name: value.numpy() for name, value in zip(names, given, strict=True)})
        truth = images_of(gan, given)
        assert truth.std() > 0.05
        torch.testing.assert_close(torch.from_numpy(found), truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_torch_export(gans, kind, tmp_path):
    gan, path = gans[kind], tmp_path / "generator.pt2"
    assert export.export(gan, path, "torch-export") < 1e-4 and list(tmp_path.iterdir()) == [path]
    program = torch.export.load(path)
    assert "fastgan" not in str(program.graph) and "batch_norm" not in str(program.graph)
    for n in (1, 7):
        given = arguments_for(gan.generator, n)
        torch.testing.assert_close(program.module()(*given), images_of(gan, given), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_is_read_by_load(gans, kind, tmp_path):
    gan, path = gans[kind], tmp_path / "small.safetensors"
    given = arguments_for(gan.generator, 6)
    for half, tolerance in ((False, 1e-4), (True, 2e-2)):
        assert export.export(gan, path, "safetensors", half=half) < tolerance
        again = fastgan.load(path)
        torch.testing.assert_close(images_of(again, given), images_of(gan, given), rtol=0, atol=tolerance)
        assert models.arguments_of(again.generator) == models.arguments_of(gan.generator)
        assert again.step == gan.step and again.discriminator is None
    floats = sum(parameter.numel() for parameter in models.folded(gan.generator).parameters())
    assert path.stat().st_size < 2 * floats + 8192
    export.export(again, path, "safetensors")  # again from what was exported
    torch.testing.assert_close(images_of(fastgan.load(path), given), images_of(again, given))


def test_the_averaged_weights_of_a_run_are_exported(tmp_path):
    images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    config = TrainConfig(out=str(tmp_path / "run"), steps=4, batch_size=4, latent_dim=5, width=2, device="cpu")
    trainer = Trainer(config, data=images)
    trainer.train()
    export.export(fastgan.load(tmp_path / "run"), tmp_path / "small.safetensors", "safetensors")
    latents = torch.randn(4, 5)
    found = fastgan.load(tmp_path / "small.safetensors").images_of(latents)
    ema, trained = trainer.state.ema.module, trainer.state.generator.eval()
    torch.testing.assert_close(found, ema(latents), rtol=0, atol=1e-5)
    assert (found - trained(latents).detach()).abs().max() > 10 * (found - ema(latents)).abs().max()


class Mine(torch.nn.Module):
    latent_dim = 3

    def __init__(self):
        super().__init__()
        self.main = torch.nn.Sequential(
            torch.nn.ConvTranspose2d(3, 4, 16), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1)
        )

    def forward(self, latent):
        return torch.tanh(self.main(latent[:, :, None, None]))


@pytest.mark.parametrize("format", ["torch-export", "safetensors", pytest.param("onnx", marks=needs_onnx)])
def test_a_network_of_ones_own(tmp_path, format):
    images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    config = TrainConfig(out=str(tmp_path / "run"), steps=2, batch_size=4, device="cpu")
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 16), torch.nn.Flatten())
    Trainer(config, Mine(), discriminator, images).train()
    gan = fastgan.load(tmp_path / "run", generator=Mine())
    assert export.export(gan, tmp_path / "mine", format) < 1e-4
    if format == "safetensors":
        again = fastgan.load(tmp_path / "mine", generator=Mine())
        before = gan.generate(3)
        torch.testing.assert_close(again.generate(3), before)
        assert 0 < export.export(gan, tmp_path / "half", format, half=True) < 2e-2
        assert torch.equal(gan.generate(3), before)  # what is exported stays as it is


class Elsewhere(Mine):
    """Rounds as another device does, until it is moved."""

    away = True

    def to(self, *arguments, **options):
        self.away = False
        return super().to(*arguments, **options)

    def forward(self, latent):
        return super().forward(latent) + 1e-3 * self.away


def test_a_file_is_compared_on_the_device_that_it_was_read_on(tmp_path):
    images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    config = TrainConfig(out=str(tmp_path / "run"), steps=2, batch_size=4, device="cpu")
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 16), torch.nn.Flatten())
    Trainer(config, Mine(), discriminator, images).train()
    gan = fastgan.load(tmp_path / "run", generator=Elsewhere())
    gan.generator.away = True
    assert export.export(gan, tmp_path / "mine", "safetensors") < 1e-4
    assert export.export(gan, tmp_path / "mine", "torch-export") < 1e-4
    assert gan.generator.away


# ---- what is not kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format, change",
    [
        pytest.param("onnx", 1e-2, marks=needs_onnx),
        ("torch-export", float("nan")),
        ("safetensors", 1e-2),
        ("safetensors", float("nan")),
    ],
)
def test_a_file_that_computes_something_else_is_not_kept(gans, format, change, tmp_path, monkeypatch):
    whole = models.folded

    def spoilt(network):
        network = whole(network)
        with torch.no_grad():
            list(network.parameters())[-1].add_(change)
        return network

    monkeypatch.setattr(models, "folded", spoilt)
    path = tmp_path / "generator"
    path.write_text("what was there before")
    with pytest.raises(UserError, match=rf"^the {format} file computes images that differ by .* so it was not kept"):
        export.export(gans["mlp"], path, format)
    assert path.read_text() == "what was there before" and list(tmp_path.iterdir()) == [path]


def test_missing_packages_are_named_with_the_extra(gans, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    with pytest.raises(UserError, match=r"^onnx files need onnxruntime, .* `pip install 'fastgan\[export\]'`"):
        export.export(gans["mlp"], tmp_path / "x.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    export.export(gans["mlp"], tmp_path / "x.pt2", "torch-export")  # which needs torch alone


@pytest.mark.parametrize(
    "options, words",
    [
        ({"format": "tflite"}, r"^format must be one of onnx, safetensors, torch-export, but it is 'tflite'"),
        ({"format": "torch-export", "half": True}, r"^half is for safetensors, but format is 'torch-export'"),
    ],
)
def test_mistakes(gans, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        export.export(gans["mlp"], tmp_path / "x", **options)


def test_an_exported_file_of_another_network(gans, tmp_path):
    export.export(gans["dcgan"], tmp_path / "x.safetensors", "safetensors")
    for other in (Mine(), gans["mlp"].generator):
        with pytest.raises(UserError, match="does not fit the network"):
            fastgan.load(tmp_path / "x.safetensors", generator=other)


def test_a_place_that_cannot_be_written(gans, tmp_path):
    with pytest.raises(OSError):
        export.export(gans["mlp"], tmp_path / "nowhere" / "x.safetensors", "safetensors")


@pytest.mark.parametrize("format", ["torch-export", "safetensors", pytest.param("onnx", marks=needs_onnx)])
def test_a_disk_that_fills(gans, tmp_path, format):
    path = tmp_path / f"x{export.SUFFIXES[format]}"
    path.write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError):
            export.export(gans["mlp"], path, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"older"
