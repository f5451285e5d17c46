"""Write one line of metrics per epoch to ``epochs.jsonl``: learning curves without a logger, and a sign of life."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.results.files import RetryWriter, write_whole
from lightning_modules.results.result import EPOCHS
from zoo.ranks import global_rank

KEYS = ("train/loss", "train/lr", "val/loss", "val/acc")


class EpochLines(Checkpoint):
    """Appends to ``epochs.jsonl`` after each epoch; ``seconds`` is the time in training over all starts of the run.

    A resumed run rewrites the file from the lines in its checkpoint, so each epoch stands in it once, whatever happened
    to the file in between. Derives from `Checkpoint` because Lightning calls checkpoint callbacks last, when all of the
    epoch's metrics are known.

    Args:
        folder: Folder for the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EPOCHS
        self._lines: list[str] = []
        self._validated: dict[str, float | None] = {}  # in this epoch
        self._seconds_before, self._start = 0.0, time.perf_counter()
        self._writer = RetryWriter()

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"lines": list(self._lines), "validated": dict(self._validated), "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lines, self._validated = list(state_dict["lines"]), dict(state_dict["validated"])
        self._seconds_before = state_dict.get("seconds", 0.0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.perf_counter()
        if trainer.is_global_zero:
            self._try(self._write_all)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._validated = _values(trainer, "val/")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        line = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        line |= _values(trainer, "train/") | self._validated | {"seconds": round(self._seconds(), 3)}
        self._validated = {}
        self._lines.append(json.dumps(line) + "\n")
        if trainer.is_global_zero:
            # A failed write may have left part of a line.
            self._try(self._write_all if self._writer.problem else self._append)

    def finish(self) -> None:
        """Write all epochs to the file, including those that an earlier start of the run could not write.

        Raises:
            ConvzooError: The file cannot be written.
        """
        if global_rank() == 0:
            self._try(self._write_all)
        self._writer.end()

    def _write_all(self) -> None:
        write_whole(self.path, "".join(self._lines))

    def _append(self) -> None:
        with self.path.open("a") as file:
            file.write(self._lines[-1])

    def _try(self, write: Callable[[], None]) -> None:
        self._writer.attempt(write, self.path, sum(map(len, self._lines)))


def _values(trainer: Any, prefix: str) -> dict[str, float | None]:
    """Return the logged values under a prefix; NaN and infinity become None (null), since JSON has neither."""
    found = trainer.callback_metrics
    values = {key: float(found[key]) for key in KEYS if key in found and key.startswith(prefix)}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
