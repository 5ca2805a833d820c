"""Films for people to look at: GIF by Pillow, MP4 by ffmpeg."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from fastgan.errors import UserError

__all__ = ["check_film", "write_film"]


def check_film(path: Path) -> None:
    """Raises UserError where a film of this kind cannot be made here."""
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise UserError(f"{path} needs ffmpeg, which is not installed; install it, or give a name that ends in .gif.")


def write_film(frames: Iterable[Image.Image], path: Path, fps: int) -> None:
    """Writes pictures of one size as a film, beside ``path``, and renames it.

    Raises:
        UserError: where ffmpeg is needed and not there, or fails.
        OSError: where it cannot be written.
    """
    check_film(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    frames = map(_on_white, frames)
    try:
        if path.suffix.lower() == ".mp4":
            _write_mp4(frames, temporary, fps)
        else:
            first, *others = frames
            first.save(temporary, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _on_white(frame: Image.Image) -> Image.Image:
    if frame.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame).convert("RGB")
    return frame


def _write_mp4(frames: Iterable[Image.Image], path: Path, fps: int) -> None:
    frames = iter(frames)
    first = next(frames).convert("RGB")
    width, height = first.size
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", str(fps), "-i", "-", "-pix_fmt", "yuv420p"]  # what every player shows
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", str(path)]  # which needs even sizes
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
        try:
            ffmpeg.stdin.write(first.tobytes())
            for frame in frames:
                ffmpeg.stdin.write(frame.convert("RGB").tobytes())
        except BrokenPipeError:
            pass  # it has ended, and says why below
        _, said = ffmpeg.communicate()
    if ffmpeg.returncode:
        reason = said.decode(errors="replace").strip().splitlines() or [f"it ended with {ffmpeg.returncode}"]
        raise UserError(f"ffmpeg could not write the film ({reason[-1]}); give a name that ends in .gif instead.")
