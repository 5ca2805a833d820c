"""Packed sets: a folder of one file of pixels, which is memory-mapped, and a manifest that says what they are.

``images.u8`` is uint8 [N, H, W, C] and nothing else; ``fastgan-pack.json`` has everything that is known about it.
:mod:`fastgan.data.pack` makes them.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .collection import printable, reason_of
from .file_map import FileMap, as_tensor
from .image_set import ImageSet

__all__ = ["MANIFEST", "PIXELS", "PROGRESS", "Manifest", "check_pack", "is_pack", "load_pack", "pack_size"]

MANIFEST, PIXELS, PROGRESS = "fastgan-pack.json", "images.u8", "fastgan-pack.part.jsonl"
VERSION = 1
CHECKED = 64 << 20  # bytes whose checksums are compared when a pack is loaded, spread over it


@dataclass
class Manifest:
    """What a pack holds, as in its JSON file."""

    count: int
    image_size: tuple[int, int]
    """(height, width)"""
    channels: int
    name: str
    source: str
    request: dict[str, Any]
    """What was asked for, and the stamp of its source; the same again is the same pack."""
    blocks: list[tuple[int, int]]
    """(images, CRC-32 of their bytes) of each stretch of the file of pixels, in order."""
    files: list[str]
    """What each image is called in its source."""
    skipped: list[tuple[str, str]]
    labels: list[int] | None
    classes: list[str]
    version: int = VERSION

    @property
    def row_bytes(self) -> int:
        return self.image_size[0] * self.image_size[1] * self.channels

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, {"format": "fastgan pack", **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises UserError where the pack is not finished, of another version or damaged."""
        if not (folder / MANIFEST).exists():
            raise UserError(
                f"the pack {printable(folder)} is not finished; run the `fastgan pack` that began it again, it goes on "
                f"where it stopped"
            )
        try:
            values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version = values["version"]
            if version != VERSION:
                raise UserError(
                    f"the pack {printable(folder)} is of version {version}, but this fastgan reads version {VERSION}; "
                    f"pack its source anew"
                )
            found = cls(**{name: value for name, value in values.items() if name != "format"})
            found.image_size = (int(found.image_size[0]), int(found.image_size[1]))
            counts = {found.count, len(found.files), sum(rows for rows, _ in found.blocks)}
            if len(counts) != 1 or (found.labels is not None and len(found.labels) != found.count):
                raise ValueError("its parts do not agree on the number of images")
            return found
        except UserError:
            raise
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise damaged(folder, f"{MANIFEST}: {reason_of(error)}") from None


def is_pack(folder: Path) -> bool:
    """Whether this is a pack, be it unfinished or damaged."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (MANIFEST, PROGRESS))


def pack_size(folder: Path) -> tuple[int, int]:
    """(height, width) of a pack's images."""
    return Manifest.read(folder).image_size


def load_pack(folder: Path, image_size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    """A pack, memory-mapped; its checksums are compared for up to 64 MiB of it, spread evenly.

    Raises:
        UserError: where it is unfinished, damaged or of another version, and where another size or other channels are
            asked for than it has.
    """
    manifest = Manifest.read(folder)
    _check_request(folder, manifest, image_size, channels)
    check_pack(folder, manifest, CHECKED)
    mapping = FileMap(folder / PIXELS)
    pixels = as_tensor(mapping.array((manifest.count, *manifest.image_size, manifest.channels)))
    return ImageSet(
        images=pixels.permute(0, 3, 1, 2),
        labels=None if manifest.labels is None else torch.tensor(manifest.labels, dtype=torch.int64),
        classes=tuple(manifest.classes),
        name=manifest.name,
        source=printable(folder),
        skipped=tuple((file, reason) for file, reason in manifest.skipped),
        mapping=mapping,
    )


def check_pack(folder: Path, manifest: Manifest, most: int | None = None) -> None:
    """Raises UserError where the pixels are not those that were packed, as far as their size and the checksums of at
    most ``most`` bytes show (None: all)."""
    path, expected = folder / PIXELS, manifest.count * manifest.row_bytes
    try:
        size = path.stat().st_size
        if size != expected:
            raise damaged(folder, f"{PIXELS} has {size:,} bytes, where {expected:,} belong")
        stride = 1 if most is None else -(-expected // most)
        first = 0
        with open(path, "rb") as file:
            for number, (rows, checksum) in enumerate(manifest.blocks):
                if number % stride == 0:
                    file.seek(first * manifest.row_bytes)
                    if zlib.crc32(file.read(rows * manifest.row_bytes)) != checksum:
                        raise damaged(folder, f"images {first:,} to {first + rows - 1:,} have another checksum")
                first += rows
    except OSError as error:
        raise damaged(folder, f"{PIXELS}: {reason_of(error)}") from None


def damaged(folder: Path, what: str) -> UserError:
    return UserError(f"the pack {printable(folder)} is damaged ({what}); remove it and pack its source anew")


def write_json(path: Path, value: Any) -> None:
    """Writes beside ``path``, to the disk, and renames. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _check_request(folder: Path, manifest: Manifest, image_size: tuple[int, int] | None, channels: int | None) -> None:
    height, width = manifest.image_size
    if image_size not in (None, manifest.image_size):
        raise UserError(
            f"the pack {printable(folder)} holds images of {height}x{width}, but image_size is "
            f"{image_size[0]}x{image_size[1]}; leave it out, or pack the source again at that size"
        )
    if channels not in (None, manifest.channels):
        raise UserError(
            f"the pack {printable(folder)} holds images of {manifest.channels} channels, but channels is {channels}; "
            f"leave it out, or pack the source again with that many"
        )
