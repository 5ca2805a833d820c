"""The folder of a run: what lies where, and how it gets there whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from fastgan.errors import UserError

__all__ = ["RUNS", "RunFolder", "newest_run", "write_whole"]

RUNS = Path("runs")


class RunFolder:
    """config.json, metrics.jsonl, samples/, checkpoints/ and generator.safetensors of one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.generator = self.path / "generator.safetensors"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, out: str | os.PathLike[str] | None, name: str) -> RunFolder:
        """A new run's folder: ``out``, or the next number under ``runs/``, as in ``runs/00000-<name>``.

        Raises:
            UserError: where ``out`` has something in it, or cannot be written to.
        """
        try:
            folder = cls(_next_under(RUNS, name) if out is None else _empty(Path(out)))
            folder.samples.mkdir()
            folder.checkpoints.mkdir()
        except OSError as error:
            where = error.filename or out or RUNS
            raise UserError(f"out: the run's folder cannot be made ({where}: {error.strerror}); choose another one.") from None
        return folder

    def sample(self, step: int) -> Path:
        return self.samples / f"step-{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}.safetensors"

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint of the most steps, or None."""
        found = {int(match[1]): path for path in self.checkpoints.glob("*") if (match := _CHECKPOINT.fullmatch(path.name))}
        return found[max(found)] if found else None

    def read_config(self) -> dict:
        return json.loads(self.config.read_text(encoding="utf-8"))


_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


def _empty(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"out: the folder {folder} is not empty; choose another folder or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _next_under(runs: Path, name: str) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    number = max((number for number, _ in _numbered(runs)), default=-1) + 1
    while True:
        try:
            (folder := runs / f"{number:05d}-{name}").mkdir()
            return folder
        except FileExistsError:  # another run has just taken it
            number += 1


def _numbered(runs: Path) -> list[tuple[int, Path]]:
    if not runs.is_dir():
        return []
    return sorted((int(match[1]), path) for path in runs.iterdir() if (match := re.match(r"(\d{5,})-", path.name)))


def newest_run() -> Path:
    """The folder of the highest number under ``runs/``.

    Raises:
        UserError: where there is none.
    """
    numbered = _numbered(RUNS)
    if not numbered:
        raise UserError(f"there is no run under {RUNS}/ yet; train one with `fastgan train`, or name a run's folder.")
    return numbered[-1][1]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file such that at any moment, a crash included, either the old one is there or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
