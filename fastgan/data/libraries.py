"""Datasets by their names in torchvision and in Hugging Face's ``datasets``, where these are installed."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from .collection import Collection, Labels, reason_of
from .decode import eight_bit, pixels_of

__all__ = ["LIBRARIES", "open_library"]


class LibraryCollection(Collection):
    """The images of a dataset; ``column`` is where an item has its image."""

    def __init__(self, dataset: Any, column: int | str, numbers: Any, classes: Sequence[str], source: str) -> None:
        self.dataset, self.column, self.skipped = dataset, column, []
        self.source, self.name = source, source.split(":", 1)[1].rsplit("/", 1)[-1].lower()
        self._numbers, self._classes = _whole_numbers(numbers, len(dataset)), tuple(map(str, classes))

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
        item = self.dataset[index]
        image = item[self.column] if isinstance(item, (tuple, list, dict)) else item
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.asarray(image))
        return pixels_of(eight_bit(image), image_size, channels, resize)

    def labels(self, kept: Sequence[int]) -> Labels:
        if self._numbers is None:
            return None, ()
        labels = self._numbers[torch.as_tensor(kept)]
        return labels, self._classes or tuple(map(str, range(int(labels.max()) + 1)))

    def stamp(self) -> str:
        return hashlib.sha256(f"{self.source} {len(self)}".encode()).hexdigest()


def open_library(spec: str) -> LibraryCollection:
    """The dataset of "torchvision:NAME" or "hf:NAME", its training part; downloaded where it is not there yet."""
    prefix, _, name = spec.partition(":")
    return LIBRARIES[prefix](name, spec)


def _open_torchvision(name: str, spec: str) -> LibraryCollection:
    """Downloads to ``datasets`` beside torch's own cache (``$TORCH_HOME``, by default ``~/.cache/torch``)."""
    datasets = _library("torchvision.datasets", "torchvision", spec)
    found = getattr(datasets, name, None)
    if not isinstance(found, type):
        raise UserError(f"torchvision has no dataset {name!r}; give one of torchvision.datasets, such as MNIST")
    root = Path(torch.hub.get_dir()).parent / "datasets"
    try:
        dataset = found(str(root), download=True)
    except Exception as error:
        raise _unavailable(spec, error) from None
    numbers = getattr(dataset, "targets", getattr(dataset, "labels", None))
    return LibraryCollection(dataset, 0, numbers, getattr(dataset, "classes", ()), spec)


def _open_hugging_face(name: str, spec: str) -> LibraryCollection:
    """The part "train", from the cache of ``datasets``."""
    datasets = _library("datasets", "datasets", spec)
    try:
        dataset = datasets.load_dataset(name, split="train")
    except Exception as error:
        raise _unavailable(spec, error) from None
    kinds = {column: type(feature).__name__ for column, feature in dataset.features.items()}
    image = next((column for column, kind in kinds.items() if kind == "Image"), None)
    label = next((column for column, kind in kinds.items() if kind == "ClassLabel"), None)
    if image is None:
        raise UserError(f"{spec} has the columns {', '.join(kinds)}, none of which holds images; give another dataset")
    if label is None:
        return LibraryCollection(dataset, image, None, (), spec)
    return LibraryCollection(dataset, image, dataset[label], dataset.features[label].names, spec)


LIBRARIES = {"torchvision": _open_torchvision, "hf": _open_hugging_face}


def _library(module: str, package: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a torchvision for another torch raises RuntimeError
        raise UserError(
            f"data is {spec}, which needs {package} ({reason_of(error)}); install it by `pip install {package}`"
        ) from None


def _unavailable(spec: str, error: Exception) -> UserError:
    return UserError(f"data is {spec}, which cannot be loaded ({reason_of(error)}); check the name and the network")


def _whole_numbers(numbers: Any, n: int) -> torch.Tensor | None:
    """One class an image as int64 [n]; None for anything else that datasets call targets."""
    array = np.asarray([] if numbers is None else numbers)
    return torch.from_numpy(array.astype(np.int64)) if array.shape == (n,) and array.dtype.kind in "iu" else None
