"""Making a packed set (:mod:`fastgan.data.packed`): block after block, so that a killed one goes on where it was."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ..errors import UserError
from .collection import (
    Collection,
    Progress,
    is_grey,
    printable,
    read_rows,
    readers,
    reason_of,
    stored_channels,
    tell_skipped,
)
from .image_set import allocate
from .loading import check_arguments, default_size, open_collection, packed_folder
from .packed import MANIFEST, PIXELS, PROGRESS, Manifest, check_pack, damaged

__all__ = ["pack"]

PART = "images.part"
BLOCK = 4 << 20  # bytes decoded, written and recorded at a time; a kill loses less than one
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def pack(
    spec: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | str = "auto",
    resize: str = "crop",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Decodes and resizes every image once, into a folder that :func:`fastgan.data.load` memory-maps; its path.

    The arguments are those of :func:`load`; ``out`` is the folder, by default ``NAME-HxW.pack`` here. A pack that was
    stopped, even by ``kill -9`` or a full disk, goes on where it was when it is begun again with the same arguments;
    one that is complete stays as it is, once all its checksums are found right. The memory needed does not grow with
    the number of images.

    Raises:
        UserError: what :func:`load` raises; for an ``out`` that holds something else or cannot be written; and for a
            source that has changed since its pack was begun.
    """
    size, wanted = check_arguments(spec, image_size, channels, resize, workers)
    if out is not None and not os.fspath(out):
        raise UserError("out is empty; give the folder to write, or leave it out")
    if packed_folder(spec) is not None:
        raise UserError(f"{printable(spec)} is packed already; give what it was packed from")
    collection = open_collection(spec, size)
    size = size or default_size(collection)
    request = {
        "stamp": collection.stamp(),
        "count": len(collection),
        "image_size": list(size),
        "channels": channels,
        "resize": resize,
    }
    folder = Path(out) if out is not None else Path(f"{collection.name}-{size[0]}x{size[1]}.pack")
    if (folder / MANIFEST).exists():
        _check_complete(folder, request)
    else:
        packing = _Packing(folder, collection, (*size, wanted or stored_channels(collection)), request)
        with packing.told(), packing.begun() as file, readers(workers) as pool:
            packing.fill(file, pool, progress)
            packing.finish(file, may_be_grey=wanted is None and collection.channels is None)
    return folder


def _check_complete(folder: Path, request: dict[str, Any]) -> None:
    """Raises UserError where what is there is another pack, or damaged."""
    manifest = Manifest.read(folder)
    if manifest.request != request:
        raise UserError(
            f"out is {printable(folder)}, a pack of other images or options; choose another folder or remove it"
        )
    check_pack(folder, manifest)
    for name in (PROGRESS, PART):  # a kill at the very end leaves them
        (folder / name).unlink(missing_ok=True)


@dataclass
class _State:
    """What is on the disk so far."""

    read: int = 0
    """images of the source that are done with, skipped ones too"""
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """as in the manifest"""
    skipped: list[tuple[int, str]] = field(default_factory=list)
    """(number of the image in the source, reason)"""
    grey: bool = True
    """whether red, green and blue were equal everywhere"""

    @property
    def kept(self) -> int:
        return sum(rows for rows, _ in self.blocks)

    def add(self, read: int, rows: int, checksum: int, skipped: list[tuple[int, str]], grey: bool) -> None:
        """One block: a line of the journal."""
        self.read += read
        self.blocks += [(rows, checksum)] if rows else []
        self.skipped += skipped
        self.grey = self.grey and grey


class _Packing:
    """One pack while it is made; ``shape`` is (height, width, channels)."""

    def __init__(self, folder: Path, collection: Collection, shape: tuple[int, int, int], request: dict) -> None:
        self.folder, self.collection, self.shape, self.request = folder, collection, shape, request
        self.state = _State()

    @contextmanager
    def told(self) -> Iterator[None]:
        """A full disk and the like as a sentence."""
        try:
            yield
        except OSError as error:
            if isinstance(error, (UserError, BrokenPipeError)):  # the latter is of stdout, where progress is told
                raise
            done = f"{self.state.read:,} of {len(self.collection):,} images are packed and kept"
            remedy = "make room and run the same command again" if error.errno in FULL else "choose another folder"
            raise UserError(
                f"the pack {printable(self.folder)} cannot be written ({reason_of(error)}); {done}, {remedy}"
            ) from None

    @contextmanager
    def begun(self) -> Iterator[BinaryIO]:
        """The file of pixels, locked, at the place where the next block goes; ``state`` is what is done."""
        folder, part = self.folder, self.folder / PART
        begun = (folder / PROGRESS).exists()
        if not begun and folder.exists() and not (folder.is_dir() and set(os.listdir(folder)) <= {PART}):
            raise UserError(f"out is {printable(folder)}, which is not empty; choose another folder or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        if begun and not part.exists() and (folder / PIXELS).exists():  # killed between renaming and the manifest
            os.replace(folder / PIXELS, part)
        with open(part, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"out is {printable(folder)}, which another process is packing; wait for it or choose another "
                    f"folder"
                ) from None
            self._read_journal()
            end = self.state.kept * int(np.prod(self.shape))
            if os.stat(part).st_size < end:
                raise damaged(folder, f"{PART} is shorter than {PROGRESS} says")
            file.truncate(end)
            yield file

    def fill(self, file: BinaryIO, pool: ThreadPoolExecutor, progress: Progress | None) -> None:
        """Every block that is not there yet, each recorded once it is on the disk."""
        n, state = len(self.collection), self.state
        height, width, channels = self.shape
        resize = self.request["resize"]
        buffer = allocate(min(n, max(1, BLOCK // (height * width * channels))), (height, width), channels)
        while state.read < n:
            rows = buffer[: n - state.read]
            reasons = []
            for reason in read_rows(self.collection, state.read, rows, resize, pool):
                reasons.append(reason)
                if progress is not None:
                    progress(state.read + len(reasons), n)
            kept = rows[[reason is None for reason in reasons]]
            file.write(kept)
            _to_disk(file)
            skipped = [(state.read + row, reason) for row, reason in enumerate(reasons) if reason is not None]
            block = (len(rows), len(kept), zlib.crc32(kept), skipped, channels == 3 and is_grey(kept))
            self._write_journal(block)
            state.add(*block)

    def finish(self, file: BinaryIO, may_be_grey: bool) -> None:
        """The manifest, which makes it a pack."""
        collection, state = self.collection, self.state
        skipped = collection.skipped + [(collection.file(index), reason) for index, reason in state.skipped]
        if not state.blocks:
            self._remove()
            self.folder.rmdir()
        tell_skipped(collection, state.kept, skipped)
        left_out = {index for index, _ in state.skipped}
        kept = [index for index in range(len(collection)) if index not in left_out]
        labels, classes = collection.labels(kept)
        height, width, channels = self.shape
        if may_be_grey and state.grey:
            channels, state.blocks = 1, self._first_channel(file)
        else:
            os.replace(self.folder / PART, self.folder / PIXELS)
        Manifest(
            count=state.kept,
            image_size=(height, width),
            channels=channels,
            name=collection.name,
            source=collection.source,
            request=self.request,
            blocks=state.blocks,
            files=[collection.file(index) for index in kept],
            skipped=skipped,
            labels=None if labels is None else labels.tolist(),
            classes=list(classes),
        ).write(self.folder)
        self._remove()

    def _first_channel(self, file: BinaryIO) -> list[tuple[int, int]]:
        """Writes the pixels with one channel of three; the new blocks."""
        blocks = []
        file.seek(0)
        with open(self.folder / PIXELS, "wb") as target:
            for rows, _ in self.state.blocks:
                pixels = np.frombuffer(file.read(rows * int(np.prod(self.shape))), np.uint8).reshape(-1, 3)
                grey = np.ascontiguousarray(pixels[:, 0])
                target.write(grey)
                blocks.append((rows, zlib.crc32(grey)))
            _to_disk(target)
        return blocks

    def _read_journal(self) -> None:
        """What an earlier call has done; begins the journal where there is none. Its first line is the request."""
        path = self.folder / PROGRESS
        content = path.read_bytes() if path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]  # a kill may leave half a line
        try:
            lines = [json.loads(line) for line in complete.splitlines()]
            for block in lines[1:]:
                self.state.add(*block)
        except (ValueError, TypeError) as error:
            raise damaged(self.folder, f"{PROGRESS}: {reason_of(error)}") from None
        if not lines:
            path.unlink(missing_ok=True)
            self._write_journal(self.request)
        elif lines[0] != self.request:
            raise UserError(
                f"out is {printable(self.folder)}, which was begun with other images or options; choose another folder "
                f"or remove it"
            )
        elif complete != content:
            os.truncate(path, len(complete))

    def _write_journal(self, line: Any) -> None:
        with open(self.folder / PROGRESS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            _to_disk(file)

    def _remove(self) -> None:
        for name in (PROGRESS, PART):
            (self.folder / name).unlink(missing_ok=True)


def _to_disk(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())
