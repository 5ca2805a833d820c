"""The folder of a run: its name, what lies where, who uses it, and finding it again."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastgan.errors import UserError, warn_once

__all__ = ["RUNS", "RunFolder", "known_runs", "newest_run", "next_name"]

RUNS = Path("runs")


class RunFolder:
    """Where the parts of a run lie."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.health = self.path / "health.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.picture = self.path / "run.png"
        self.evaluation = self.path / "evaluation.json"
        self.nearest = self.path / "nearest.png"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.generator = self.path / "generator.safetensors"
        self.lock = self.path / ".lock"

    @property
    def is_begun(self) -> bool:
        """Whether a run has been begun here, which its configuration tells."""
        return self.config.is_file()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the folder, which is made where it is missing, from every other process; a killed one lets go of it.

        Raises:
            UserError: where a process that lives uses it, or where it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("ab+", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"the run {self.path} is in use by process {file.read().decode() or '(unknown)'}; wait for it, or "
                    "end it by Ctrl-C or `kill`, which makes it write a checkpoint."
                ) from None
            except OSError as error:
                warn_once(
                    f"lock {self.path}",
                    f"the file system of {self.path} has no locks ({error.strerror}); see to it that no second process "
                    "trains there.",
                )
            with self.writing():
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            yield

    def prepare(self, config: str, last_step: int) -> None:
        """Makes the folder ready for the steps after ``last_step``.

        The configuration is written, half-written files and the rows of later steps are removed. Raises OSError.
        """
        begun = self.config.stat() if self.is_begun else None
        if begun is None or self.config.read_text(encoding="utf-8") != config:
            write_text(self.config, config)
            if begun is not None:  # which known_runs goes by
                os.utime(self.config, ns=(begun.st_atime_ns, begun.st_mtime_ns))
        for folder in (self.path, self.samples, self.checkpoints):
            folder.mkdir(exist_ok=True)
            for left in folder.glob(".*.tmp*"):
                left.unlink()
        self.cut_rows(last_step)

    def cut_rows(self, last_step: int) -> None:
        """Removes from every ``.jsonl`` the rows of the steps after ``last_step``, and what is no whole row.

        Raises OSError.
        """
        for path in self.path.glob("*.jsonl"):
            end = 0
            with path.open("rb") as file:
                for line in file:
                    if _step_of(line) > last_step:
                        break
                    end += len(line)
            if end < path.stat().st_size:
                os.truncate(path, end)

    def last_row(self) -> dict[str, Any]:
        """The last whole row of ``metrics.jsonl``; an empty one where there is none."""
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []
        return next((json.loads(line) for line in reversed(lines) if _step_of(line) < math.inf), {})

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, an OSError becomes a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}); what was written before is "
                f"kept, so make room and go on by `fastgan resume {self.path}`."
            ) from None

    def sample(self, step: int) -> Path:
        """The picture of this step."""
        return self.samples / f"step-{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of this step."""
        return self.checkpoints / f"step-{step:06d}.safetensors"

    def all_checkpoints(self) -> list[Path]:
        """Those that are there, the oldest first."""
        found = [
            (int(match[1]), path) for path in self.checkpoints.glob("step-*") if (match := _STEP.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]


_STEP = re.compile(r"step-(\d+)\.safetensors")
_NUMBER = re.compile(r"(\d{5,})-.*")


def next_name(data: str, model: str, image_size: tuple[int, int]) -> str:
    """The name of the next run: "00000-digits-dcgan-32x32", the number one above the highest under ``runs/``."""
    height, width = image_size
    word = re.sub(r"[^\w.]+", "-", data).strip("-.")[:40] or "images"
    numbers = [int(match[1]) for path in RUNS.glob("*") if (match := _NUMBER.fullmatch(path.name))]
    return f"{max(numbers, default=-1) + 1:05d}-{word}-{model}-{height}x{width}"


def known_runs(*, trained: bool) -> list[Path]:
    """The runs under ``runs/``, the one that was begun last first; with ``trained``, those that have a generator."""
    folders = [RunFolder(path) for path in RUNS.glob("*")]
    found = [folder for folder in folders if (folder.generator.is_file() if trained else folder.is_begun)]
    begun = {folder.path: folder.config.stat().st_mtime_ns if folder.config.exists() else 0 for folder in found}
    # The numbers know better than times, which a copy changes; other names have nothing else.
    numbers = {path: int(match[1]) for path in begun if (match := _NUMBER.fullmatch(path.name))}
    latest = 0
    for path in sorted(numbers, key=numbers.__getitem__):
        begun[path] = latest = max(latest, begun[path])
    return sorted(begun, key=lambda path: (begun[path], numbers.get(path, -1)), reverse=True)


def newest_run(*, trained: bool = True) -> Path:
    """The first of :func:`known_runs`.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = known_runs(trained=trained)
    if not found:
        raise FileNotFoundError(
            f"there is no {'trained ' * trained}run under {RUNS.absolute()}; make one by `fastgan train`, or give the "
            "path of a run."
        )
    return found[0]


def check_free(path: Path) -> None:
    """Raises UserError where ``path`` is not a place for a new run."""
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"out is {path}, which is a file; give the path of a new folder.")
        if RunFolder(path).is_begun:
            raise UserError(
                f"out is {path}, which is not empty but holds a run; choose another folder, or continue that run with "
                "--resume."
            )
        if path.is_dir() and any(not part.name.startswith(".") for part in path.iterdir()):
            raise UserError(f"out is {path}, which is not empty; choose another folder or remove it.")
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise unwritable(path, error) from None
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"out is {path}, but {parent} cannot be written to; choose another folder.")


def unwritable(path: Path, error: OSError) -> UserError:
    """The sentence for a folder that cannot be made."""
    return UserError(f"out is {path}, which cannot be written ({error.strerror or error}); choose another folder.")


def write_text(path: Path, text: str) -> None:
    """Writes beside ``path``, sees it to the disk, and renames it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Returns when the file, or the names in the folder, would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step_of(line: bytes) -> float:
    """The step of a row of ``metrics.jsonl``; infinite for what is no row, such as the first half of one."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
