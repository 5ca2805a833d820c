"""``tensorboard/``: the metrics and the samples of a run for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastgan.errors import UserError

__all__ = ["TensorBoardLog", "wants_tensorboard"]

# Curves that share a word before the slash share a page.
TAGS = {
    "loss_d": "loss/discriminator",
    "loss_g": "loss/generator",
    "d_real": "probability/D(x)",
    "d_fake_before": "probability/D(G(z)) before",
    "d_fake_after": "probability/D(G(z)) after",
    "images_per_second": "speed/images_per_second",
    "diversity": "health/diversity",
    "gap": "health/gap",
    "gradient": "health/gradient",
}


def wants_tensorboard(choice: str | bool) -> bool:
    """Whether to write for TensorBoard: as asked, or with "auto" where it is installed.

    Raises:
        UserError: where it is asked for and not installed.
    """
    found = importlib.util.find_spec("tensorboard") is not None
    if choice is True and not found:
        raise UserError(
            "tensorboard is true, but the package is not installed; run `pip install tensorboard`, or leave it out."
        )
    return found if choice == "auto" else bool(choice)


class TensorBoardLog:
    """Writes event files.

    Args:
        folder: where; it is made.
        start: steps done before; what an interrupted run wrote of later ones is not shown any more.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1, flush_secs=10)

    def scalars(self, rows: Sequence[dict[str, Any]]) -> None:
        """One point a curve for all rows, their mean: a point a step would take longer than a fast step itself."""
        values = defaultdict(list)
        for row in rows:
            for name in TAGS.keys() & row.keys():
                if row[name] is not None:
                    values[name].append(row[name])
        for name, found in values.items():
            self._writer.add_scalar(TAGS[name], sum(found) / len(found), rows[-1]["step"])

    def picture(self, step: int, picture: Image.Image) -> None:
        """A grid of samples."""
        self._writer.add_image("samples", np.atleast_3d(np.asarray(picture)), step, dataformats="HWC")

    def text(self, step: int, text: str) -> None:
        """Something that happened, such as an alarm."""
        self._writer.add_text("health", text, step)

    def close(self) -> None:
        """Writes what is kept."""
        self._writer.close()
