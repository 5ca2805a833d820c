"""The folder of a run: its name, what lies where, and finding it again."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastgan.errors import UserError

__all__ = ["RUNS", "RunFolder", "newest_run", "next_name"]

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
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.generator = self.path / "generator.safetensors"

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Makes the folder, which must not exist or be empty.

        Raises:
            UserError: where it holds something or cannot be written.
        """
        folder = cls(path)
        check_free(folder.path)
        try:
            folder.samples.mkdir(parents=True)
            folder.checkpoints.mkdir()
        except OSError as error:
            raise unwritable(folder.path, error) from None
        return folder

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


def newest_run() -> Path:
    """The run under ``runs/`` that was begun last and has a generator.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = [folder for path in RUNS.glob("*") if (folder := RunFolder(path)).generator.is_file()]
    if not found:
        raise FileNotFoundError(
            f"there is no trained run under {RUNS.absolute()}; make one by `fastgan train`, or give the path of a run."
        )
    return max(found, key=lambda folder: folder.config.stat().st_mtime_ns if folder.config.exists() else 0).path


def check_free(path: Path) -> None:
    """Raises UserError where ``path`` is not a place for a new run."""
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"out is {path}, which is a file; give the path of a new folder.")
        if path.is_dir() and any(path.iterdir()):
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
    """Writes beside ``path`` and renames. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
