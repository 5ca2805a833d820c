"""A trained generator for other programs: ONNX, torch.export or safetensors, checked before the file is kept."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan import models
from fastgan.errors import UserError
from fastgan.generation import TrainedGAN
from fastgan.training._latent import first_weight
from fastgan.training.checkpoint import load_weights, read_tensors, write_tensors

__all__ = ["FORMATS", "SUFFIXES", "TOLERANCE", "check_format", "export", "format_of"]

TOLERANCE = 1e-4  # of images in [-1, 1]: other kernels, another order of the same float32 sums
HALF_TOLERANCE = 2e-2  # weights rounded to 11 bits
CHECKED = 16  # images
SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "torch-export": ".pt2"}
FORMATS = tuple(SUFFIXES)
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """``format``, or else that of the name's suffix.

    Raises:
        UserError: where the name is one of another format, or where nothing names a format.
    """
    named = next((name for name, suffix in SUFFIXES.items() if Path(path).suffix == suffix), None)
    if format is None and named is None:
        raise UserError(
            f"format is not given, and {path} does not tell it; let the name end in {', '.join(SUFFIXES.values())}, or "
            f"give one of {', '.join(FORMATS)}."
        )
    if format in FORMATS and named not in (None, format):
        raise UserError(
            f"{path} is the name of a {named} file, but format is {format!r}; let it end in {SUFFIXES[format]}, or "
            f"give format {named!r}."
        )
    return format or named


def check_format(format: str) -> None:
    """Raises UserError for an unknown format, or one whose packages are not installed."""
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, but it is {format!r}; choose one of them.")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None] if format == "onnx" else []
    if missing:
        raise UserError(
            f"onnx files need {', '.join(missing)}, which is not installed; `pip install 'fastgan[export]'` gets all "
            "that is needed."
        )


def export(gan: TrainedGAN, path: str | os.PathLike[str], format: str | None = None, *, half: bool = False) -> float:
    """Writes a run's averaged generator with batch-norm folded into its other layers, and checks what was written.

    The file takes ``latent``, float32 [N, *latent_shape] (``source``, images, from image to image), and ``labels``,
    int64 [N], where the run has classes, for any N, and gives ``images``, float32 [N, C, H, W] in [-1, 1].

    Args:
        gan: what :func:`fastgan.load` gives.
        path: the file to write.
        format: "onnx", standard operators only, checked in onnxruntime; "torch-export", for
            :func:`torch.export.load`, which needs torch alone; "safetensors", which :func:`fastgan.load` reads.
            None: that of the path's suffix, .onnx, .pt2 or .safetensors.
        half: weights in float16, which halves the file; of safetensors only.

    Returns:
        The largest difference of an element of the images from the generator's own.

    Raises:
        UserError: where the format is unknown, another than that of the path's suffix, or lacks a package, or the file
            does not compute what the generator does; it is not kept then.
        OSError: where it cannot be written.
    """
    format = format_of(path, format)
    check_format(format)
    if half and format != "safetensors":
        raise UserError(f"half is for safetensors, but format is {format!r}; leave one of them out.")
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{SUFFIXES[format]}")
    inputs = _inputs(gan, CHECKED)
    generator = copy.deepcopy(gan.generator) if _is_own(gan) else models.folded(gan.generator)
    generator.to("cpu", memory_format=torch.contiguous_format)
    # On the CPU, as the file is: a GPU's convolutions may round float32 to 10 bits.
    truth = copy.deepcopy(gan.generator).to("cpu")
    try:
        if format == "onnx":
            _write_onnx(generator, inputs, temporary)
            found = _run_onnx(temporary, inputs)
        elif format == "torch-export":
            packed = io.BytesIO()  # on a full disk, writing into a file itself would abort the process
            torch.export.save(_program(generator, inputs), packed)
            temporary.write_bytes(packed.getbuffer())
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given buffer is not writable")  # torch 2.11 loading
                found = torch.export.load(temporary).module()(*inputs.values())
        else:
            _write_safetensors(gan, generator, temporary, half)
            found = _run_safetensors(truth, temporary, inputs)
        difference = _difference(truth, inputs, found)
        if not difference <= (HALF_TOLERANCE if half else TOLERANCE):  # a NaN is no agreement
            raise UserError(
                f"the {format} file computes images that differ by {difference:.1e} from the generator's, so it was "
                "not kept; please report it with the output of `fastgan doctor`."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _is_own(gan: TrainedGAN) -> bool:
    return models.arguments_of(gan.generator) is None


def _inputs(gan: TrainedGAN, n: int) -> dict[str, Tensor]:
    """What the generator is called with, by name."""
    if gan.source_channels is not None:
        shape = (n, gan.source_channels, *gan.image_size)
        return {"source": torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1}
    inputs = {"latent": gan.latents(n)}
    if gan.num_classes:
        inputs["labels"] = torch.arange(n) % gan.num_classes
    return inputs


def _program(generator: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(generator, tuple(inputs.values()), dynamic_shapes=[{0: batch} for _ in inputs])


def _write_onnx(generator: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    import onnx

    with _quiet():
        program = torch.onnx.export(
            _program(generator, inputs),
            input_names=list(inputs),
            output_names=["images"],
            dynamic_shapes=[{0: "batch"} for _ in inputs],  # the name alone
            dynamo=True,
            verbose=False,
            external_data=False,
        )
        program.save(path)
    others = {node.domain for node in onnx.load(path).graph.node} - {"", "ai.onnx"}
    if others:
        raise UserError(
            f"the generator uses operators of {', '.join(sorted(others))}, which are not ONNX's own; export it as "
            "torch-export instead."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on what it is about to change itself, and on packages that nobody needs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _run_onnx(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def _write_safetensors(gan: TrainedGAN, generator: nn.Module, path: Path, half: bool) -> None:
    def stored(tensor: Tensor) -> Tensor:
        return tensor.half() if half and tensor.is_floating_point() else tensor

    weights = {name: stored(tensor) for name, tensor in generator.state_dict().items()}
    write_tensors(path, weights, {**gan.described, "discriminator": None, "folded": not _is_own(gan)})


def _run_safetensors(truth: nn.Module, path: Path, inputs: dict[str, Tensor]) -> Tensor:
    weights, described = read_tensors(path, "generator")
    is_own = described["generator"] is None
    generator = copy.deepcopy(truth) if is_own else models.folded(models.build(**described["generator"])[0])
    load_weights(generator, weights, path)
    return _images(generator, inputs)


@torch.no_grad()
def _images(generator: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    weight = first_weight(generator)
    return generator(*(value.to(weight.device) for value in inputs.values())).float().cpu()


def _difference(generator: nn.Module, inputs: dict[str, Tensor], found: Tensor) -> float:
    truth = _images(generator, inputs)
    return float("nan") if found.shape != truth.shape else (found.detach().float() - truth).abs().max().item()
