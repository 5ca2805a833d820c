"""A folder of images."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

import numpy as np

from ..errors import UserError, counted
from .collection import FileCollection, Skipped, digest, file_state, listed, printable, reason_of
from .decode import SUFFIXES, read_image

__all__ = ["DataNotFound", "open_file", "open_folder"]


class DataNotFound(UserError, FileNotFoundError):
    """There is no such folder, or it holds no images."""


def open_folder(folder: Path) -> FileCollection:
    """Every image under ``folder``, in the order of the relative paths."""
    return _Folder(folder, *_find(folder))


def open_file(path: Path) -> FileCollection:
    """The one image of a file, which is called by its name."""
    found = _Folder(path.parent, [PurePath(path.name)], [])
    found.name, found.source = printable(path.stem), printable(path)
    return found


class _Folder(FileCollection):
    def __init__(self, folder: Path, files: list[PurePath], skipped: Skipped) -> None:
        super().__init__(printable(folder.resolve().name) or "images", printable(folder), files, skipped)
        self.folder = folder

    def read(self, index: int, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
        return read_image(self.folder / self.files[index], image_size, channels, resize)

    def stamp(self) -> str:
        return digest(f"{file} {file_state(self.folder / file)}" for file in self.files)


def _find(folder: Path) -> tuple[list[PurePath], Skipped]:
    """Paths of image files relative to ``folder``, sorted, and the subfolders that cannot be read."""
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except (OSError, ValueError) as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({reason_of(error)})"
        raise DataNotFound(
            f"{printable(folder)} {problem}; give a folder, a .zip, .npy, .npz or IDX file, a pack, torchvision:NAME "
            f"or hf:NAME, or 'digits' or 'emoji', which come with fastgan"
        ) from None
    if not is_folder:
        raise UserError(f"{printable(folder)} is a file, not a folder; give the folder that holds the images")
    found, unreadable, others, visited = [], [], 0, set()

    def note(error: OSError) -> None:
        unreadable.append((printable(os.path.relpath(error.filename, folder)), error.strerror))

    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(parent)
        # A link may lead back up. Hidden names are thumbnails, caches and the like.
        subfolders[:] = [] if real in visited else [name for name in subfolders if not name.startswith(".")]
        names = [] if real in visited else [name for name in names if not name.startswith(".")]
        visited.add(real)
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        others += len(names) - len(images)
        found += [PurePath(parent, name).relative_to(folder) for name in images]
    if not found:
        what = f"{counted(others, 'file')}, none of them an image" if others else "no files"
        what += f", and folders that cannot be read ({listed(unreadable)})" if unreadable else ""
        raise DataNotFound(
            f"the folder {printable(folder)} holds {what}; give one with files ending in {', '.join(SUFFIXES)}"
        )
    return sorted(found, key=lambda file: file.parts), unreadable
