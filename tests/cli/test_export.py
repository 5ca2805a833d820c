import pytest
import torch
from runs import write_run

import fastgan
from fastgan import export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", "mlp")


@pytest.mark.parametrize(
    ("format", "name"),
    [("onnx", "generator.onnx"), ("safetensors", "generator.safetensors"), ("torch-export", "generator.pt2")],
)
def test_every_format(run, trained, tmp_path, format, name):
    for package in export.ONNX_PACKAGES if format == "onnx" else ():
        pytest.importorskip(package, reason="ONNX export is tested where its packages are installed ('.[export]')")
    code, out, err = run("export", trained, "--format", format)
    assert (code, err) == (0, "") and out.startswith(f"{name}: ") and "equal to its generator to" in out
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["mine.pt2", "mine.safetensors"])
def test_the_suffix_tells_the_format(run, trained, tmp_path, name):
    code, out, err = run("export", trained, "--out", name)
    assert (code, err) == (0, "") and out.startswith(f"{name}: ")
    made = fastgan.load(name).generate(1) if name.endswith("safetensors") else torch.export.load(name).module()
    assert made is not None and [path.name for path in tmp_path.iterdir()] == [name]


def test_the_digits_that_come_with_fastgan(run):
    out = run("export", "--format", "safetensors")[1]
    assert out.startswith("this is the generator of digits that comes with fastgan; `")
    found, known = fastgan.load("generator.safetensors").generate(4), fastgan.load("digits").generate(4)
    torch.testing.assert_close(found, known, rtol=0, atol=1e-4)


def test_half(run, trained):
    assert run("export", trained, "--format", "safetensors", "--half", "--out", "small.safetensors")[0] == 0
    found, whole = fastgan.load("small.safetensors").generate(4), fastgan.load(trained).generate(4)
    torch.testing.assert_close(found, whole, rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--format tflite", "format must be one of onnx, safetensors, torch-export, but it is 'tflite'"),
        (
            "--format onnx --out model.safetensors",
            "model.safetensors is the name of a safetensors file, but format is 'onnx'; let it end in .onnx, or give "
            "format 'safetensors'",
        ),
        ("--format safetensors --out model.pt2", "is the name of a torch-export file, but format is 'safetensors'"),
        ("--out model.bin", "format is not given, and model.bin does not tell it; let the name end in .onnx, "),
        ("--format torch-export --half", "half is for safetensors, but format is 'torch-export'"),
        ("--format torch-export --out missing/x.pt2", "there is no folder missing"),
        ("--format torch-export --out .", "is a folder; give the name of a file"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, trained, tmp_path, arguments, words):
    code, out, err = run("export", trained, *arguments.split())
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_missing_packages(run, trained, monkeypatch):
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    code, _, err = run("export", trained)
    assert code == 2 and "onnx files need no_such_package, which is not installed" in err and "fastgan[export]" in err
