"""What turns images into features. A metric's value belongs to its extractor: by another one it is another number."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data import to_float
from fastgan.errors import UserError

__all__ = ["INCEPTION", "RANDOM", "Extractor", "RandomFilters", "extractor", "sha256_of"]

RANDOM, INCEPTION = "random", "inception"
BATCH = 64  # images at once: Inception keeps 10 MiB for each


class Extractor:
    """Images to features.

    Args:
        name: of the features, for people to read.
        function: uint8 images [N, C, H, W] to features [N, D].
        sha256: of all that the features depend on, so that values of two extractors are never taken for each other's.
        standardise: whether :func:`fastgan.evaluation.evaluate` is to bring each feature to a mean of 0 and a deviation
            of 1 over the real images, because they have no scale of their own.
    """

    def __init__(
        self, name: str, function: Callable[[Tensor], Tensor], sha256: str, *, standardise: bool = False
    ) -> None:
        self.name, self.sha256, self.standardise, self._function = name, sha256, standardise, function

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """float32 [N, D] on the CPU, of uint8 images [N, C, H, W].

        Raises:
            UserError: where it does not take such images, or gives something else.
        """
        found = []
        for part in images.split(BATCH):
            try:
                features = self._function(part)
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # a foreign module's
                raise UserError(
                    f"the features {self.name} cannot be taken of images {list(part.shape)} ({_reason(error)}); give a "
                    f"module for such images, or features {RANDOM!r}."
                ) from None
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(part):
                given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise UserError(
                    f"the features {self.name} must be a tensor [{len(part)}, D] for as many images, but they are "
                    f"{given}; give a module that makes such."
                )
            found.append(features.float().cpu())
        return torch.cat(found)


class RandomFilters(nn.Module):
    """Features without a training: what small random filters see at every octave.

    An image is halved again and again, down to 8 pixels. At each size its edges, strokes and textures are measured by
    the absolute responses of 16 random filters of 5x5 pixels, averaged over a grid of 4x4; the colours that are left
    after the last halving are added. 64 random sums of all these are the features. It is a scattering transform (Bruna
    and Mallat, 2013, https://arxiv.org/abs/1203.1513) of one order with random filters for wavelets. Naeem et al.
    (2020, section 4.2) advise random features where images are unlike those that a trained network has seen.

    Any size and number of channels. The same numbers on every machine, to rounding; nothing is downloaded.

    Args:
        channels: of the images.
        image_size: (height, width) in pixels.
    """

    FILTERS, SIDE, GRID, FEATURES = 16, 5, 4, 64

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = tuple(image_size)
        self.octaves = max(1, (min(image_size) // self.GRID).bit_length() - 1)
        random = np.random.default_rng(0)  # NumPy's generator, which draws the same everywhere
        filters = random.standard_normal((self.FILTERS, channels, self.SIDE, self.SIDE))
        filters -= filters.mean((1, 2, 3), keepdims=True)  # blind to brightness
        filters /= np.sqrt(np.square(filters).sum((1, 2, 3), keepdims=True))
        measured = (self.octaves * self.FILTERS + channels) * self.GRID**2
        mixing = random.standard_normal((measured, self.FEATURES)) / self.FEATURES**0.5
        self.register_buffer("filters", torch.from_numpy(filters).float())
        self.register_buffer("mixing", torch.from_numpy(mixing).float())

    def forward(self, images: Tensor) -> Tensor:
        """Floats [N, C, H, W] in [-1, 1] to [N, 64]."""
        if tuple(images.shape[2:]) != self.image_size:
            raise ValueError(f"the filters are for images of {list(self.image_size)} pixels")
        measured = []
        for _ in range(self.octaves):
            padded = F.pad(images, 4 * [self.SIDE // 2], mode="replicate")
            measured.append(F.adaptive_avg_pool2d(F.conv2d(padded, self.filters).abs(), self.GRID))
            images = F.avg_pool2d(images, 2)
        measured.append(F.adaptive_avg_pool2d(images, self.GRID))
        return torch.cat([part.flatten(1) for part in measured], 1) @ self.mixing


def extractor(
    features: str | os.PathLike[str] | nn.Module | Extractor = RANDOM,
    *,
    channels: int,
    image_size: tuple[int, int],
    weights: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """What is meant by ``features``.

    Args:
        features: one of

            - "random": :class:`RandomFilters`;
            - "inception": the last pooled layer of the Inception network that FID is defined by, 2,048 numbers, as
              torch-fidelity has it, of grey images as colours, and transparent ones on white;
            - a file: a module by ``torch.export.save`` (.pt2), or by ``torch.jit.save``;
            - a module; a file's or this one takes float32 [N, C, H, W] in [-1, 1] and gives [N, D];
            - an :class:`Extractor`.
        channels, image_size: of the images.
        weights: of "inception", the file that torch-fidelity would download.
        device: where it is to compute.

    Raises:
        UserError: where there is no such file, it is damaged, or a package is missing.
    """
    if weights is not None and features != INCEPTION:
        raise UserError(f"weights are those of features {INCEPTION!r}, but features is {features}; leave them out.")
    if isinstance(features, Extractor):
        return features
    if features == INCEPTION:
        return _inception(channels, weights, device)
    if features == RANDOM:
        name, module = "random filters", RandomFilters(channels, image_size)
        digest = _state_sha256(module)
    elif isinstance(features, nn.Module):
        name, module, digest = type(features).__name__, features, _state_sha256(features)
    else:
        path = Path(features)
        name, module, digest = path.name, _read_module(path), sha256_of([path.read_bytes()])
    module.to(device)
    standardise = features == RANDOM
    return Extractor(name, lambda images: module(to_float(images.to(device))), digest, standardise=standardise)


def _read_module(path: Path) -> nn.Module:
    if not path.is_file():
        raise UserError(
            f"features is {path}, but there is no such file; give {RANDOM!r}, {INCEPTION!r}, or the file of a "
            "module by torch.export.save or torch.jit.save."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")  # it means who calls it: us
            warnings.filterwarnings("ignore", message="The given buffer is not writable")  # torch 2.11 loading
            if path.suffix == ".pt2":
                return torch.export.load(path).module()
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch's readers raise whatever they come upon
        raise UserError(
            f"features is {path}, which cannot be read ({_reason(error)}); give a module by torch.export.save (.pt2) "
            "or torch.jit.save."
        ) from None


def _inception(channels: int, weights: Any, device: torch.device | str) -> Extractor:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            f"features {INCEPTION!r} need torch-fidelity, which is not installed; `pip install 'fastgan[fid]'` gets "
            f"it, or take features {RANDOM!r}."
        )
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    if weights is not None and not Path(weights).is_file():
        raise UserError(f"weights is {weights}, but there is no such file; give the one from {URL_INCEPTION_V3}.")
    path = None if weights is None else str(weights)
    try:
        if path is not None:
            torch.load(path, weights_only=True)  # or else torch-fidelity would run what code is in there
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    except Exception as error:  # of the network, of unpickling, of weights that do not fit
        raise UserError(
            f"the weights of {INCEPTION} cannot be {'read' if weights else 'downloaded'} ({_reason(error)}); fetch "
            f"{URL_INCEPTION_V3} and give it as weights."
        ) from None
    network.to(device)
    return Extractor(
        "Inception (2015, torch-fidelity)",
        lambda images: network(_coloured(images).to(device))[0],
        _state_sha256(network),
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _coloured(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] of uint8 images with 1, 3 or 4 channels; transparent ones lie on white."""
    if images.shape[1] != 4:
        return images.expand(-1, 3, -1, -1).contiguous()
    alpha = images[:, 3:].float() / 255
    return (images[:, :3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def _state_sha256(module: nn.Module) -> str:
    state = sorted(module.state_dict().items())
    described = ("".join(f"{name} {tensor.dtype} {list(tensor.shape)}\n" for name, tensor in state)).encode()
    return sha256_of([type(module).__name__.encode(), described, *(_bytes_of(tensor) for _, tensor in state)])


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def sha256_of(parts: Iterable[bytes]) -> str:
    """The SHA-256 of the parts one after another, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
