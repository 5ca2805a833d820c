"""A zip file of images."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from ..errors import UserError, counted
from .collection import FileCollection, digest, printable, reason_of
from .decode import SUFFIXES, read_image
from .folder import DataNotFound

__all__ = ["open_archive"]

LARGEST = 1 << 29  # bytes of one image file once unpacked; an archive of a few kB may claim to hold terabytes


def open_archive(path: Path, archive: zipfile.ZipFile) -> FileCollection:
    """Every image in a zip file, in the order of their paths below the folders that all of them share."""
    members = {
        PurePosixPath(info.filename): info
        for info in archive.infolist()
        if info.filename.lower().endswith(SUFFIXES) and not _is_hidden(info.filename)
    }
    if not members:
        raise DataNotFound(
            f"the zip file {printable(path)} holds {counted(len(archive.infolist()), 'entry', 'entries')}, none of "
            f"them an image; give one with files ending in {', '.join(SUFFIXES)}"
        )
    ordered = sorted(members, key=lambda member: member.parts)
    return _Archive(path, archive, [members[member] for member in ordered], _below_shared(ordered))


class _Archive(FileCollection):
    def __init__(
        self, path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], files: list[PurePath]
    ) -> None:
        super().__init__(printable(path.stem), printable(path), files, [])
        self.archive, self.members = archive, members

    def read(self, index: int, image_size: tuple[int, int], channels: int, resize: str) -> np.ndarray:
        member = self.members[index]
        if member.file_size > LARGEST:
            raise ValueError(f"{member.file_size:,} bytes unpacked, where at most {LARGEST:,} are read")
        return read_image(io.BytesIO(self.archive.read(member)), image_size, channels, resize)

    def stamp(self) -> str:
        return digest(f"{member.filename} {member.file_size} {member.CRC}" for member in self.members)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip file. Raises UserError where it is damaged."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(
            f"the zip file {printable(path)} cannot be read ({reason_of(error)}); fetch or make it anew"
        ) from None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _below_shared(paths: list[PurePosixPath]) -> list[PurePath]:
    """The paths without the folders at their beginning that all of them share; an archive often holds just one."""
    depth = min(len(path.parts) for path in paths) - 1
    shared = 0
    while shared < depth and len({path.parts[shared] for path in paths}) == 1:
        shared += 1
    return [PurePath(*path.parts[shared:]) for path in paths]
