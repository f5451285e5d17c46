"""Show training progress: a bar in a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import TQDMProgressBar

from zoo.log import log

REFRESH_S = 0.1
"""Minimum time in seconds between redraws: drawing takes as long as a step of a small network."""


class ProgressBar(TQDMProgressBar):
    """One bar for the epoch; the bars of validation and test come and go below it."""

    _drawn = 0.0

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if current != total and now - self._drawn < REFRESH_S:
            return False
        self._drawn = now
        return super()._should_update(current, total)

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


class EpochLog(Callback):
    """Logs one line per epoch once all of its metrics are known: when the next epoch starts or training ends."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch:
            self._line(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._line(trainer, trainer.current_epoch)

    def _line(self, trainer: Any, epoch: int) -> None:
        names = ("train/loss", "val/loss", "val/acc", "speed/train_images_per_s")
        values = {n: float(v) for n in names if (v := trainer.callback_metrics.get(n)) is not None}
        if values:
            text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            log.info(f"epoch {epoch}/{trainer.max_epochs}  {text}")


def progress() -> Callback:
    """Return the display for the current output: a bar if stderr is a terminal, lines otherwise."""
    return ProgressBar() if sys.stderr.isatty() else EpochLog()
