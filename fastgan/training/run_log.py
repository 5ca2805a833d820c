"""All that a run tells: metrics.jsonl, health.jsonl, tensorboard/ and the terminal, and run.png at the end."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor, nn

from fastgan.images import save_image
from fastgan.training.config import TrainConfig
from fastgan.training.faults import Alarm
from fastgan.training.health import Monitor
from fastgan.training.metrics_log import MetricsLog
from fastgan.training.progress import Progress
from fastgan.training.run_folder import RunFolder
from fastgan.training.run_picture import EQUILIBRIUM, draw_run
from fastgan.training.task import Samples
from fastgan.training.tensorboard_log import TensorBoardLog, wants_tensorboard

__all__ = ["RunLog"]


class RunLog:
    """Hands what happens in a run to all that write of it.

    Args:
        folder, config: of the run.
        generator: in training mode.
        samples: what the pictures are made of.
        progress: what the terminal shows; it is closed with the log.
        start: steps done before.

    Every method raises OSError where a file cannot be written.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        generator: nn.Module,
        samples: Samples,
        progress: Progress,
        start: int = 0,
    ) -> None:
        self._folder, self._progress = folder, progress
        self._board = TensorBoardLog(folder.tensorboard, start) if wants_tensorboard(config.tensorboard) else None
        perfect = 1 - config.label_smoothing if config.loss in EQUILIBRIUM else None
        self._monitor = Monitor(folder.health, generator, *samples, perfect=perfect, tell=self._tell)
        self._metrics = MetricsLog(folder.metrics, read=self._read)
        self.restart_clock = self._metrics.restart_clock

    @property
    def standing(self) -> list[Alarm]:
        """The alarms that are raised and not over."""
        return self._monitor.standing

    def add(self, step: int, epoch: float | None, real: Tensor, metrics: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Takes what a step has done with its images; the rows of all that is kept, where it was time to write them."""
        rows = self._metrics.add(step, epoch, len(real), metrics)
        self._monitor.look(step, real)
        return rows

    def flush(self) -> list[dict[str, Any]]:
        """Writes what is kept; the rows of it."""
        return self._metrics.flush()

    def sample(self, step: int, picture: Image.Image) -> None:
        """Takes the samples of a step."""
        save_image(picture, self._folder.sample(step))
        if self._board is not None:
            self._board.picture(step, picture)

    def rewind(self, step: int) -> None:
        """Goes on after ``step``, where the rows of later ones have been removed."""
        self._monitor.rewind(step)

    def close(self) -> None:
        """Writes what is kept, draws the run where there is a row of it, and closes the files and the display."""
        try:
            self._metrics.close()
            self._monitor.close()
            if self._board is not None:
                self._board.close()
            if self._folder.metrics.stat().st_size:
                save_image(draw_run(self._folder), self._folder.picture)
        finally:
            self._progress.close()

    def _read(self, rows: list[dict[str, Any]]) -> None:
        self._progress.update(rows[-1])
        looks = self._monitor.read(rows)
        if self._board is not None:
            self._board.scalars(rows)
            self._board.scalars(looks)

    def _tell(self, alarm: Alarm) -> None:
        self._progress.warn(str(alarm), [f"{one.fault.kind} since step {one.since}" for one in self.standing])
        if self._board is not None:
            self._board.text(alarm.step if alarm.until is None else alarm.until, str(alarm))
