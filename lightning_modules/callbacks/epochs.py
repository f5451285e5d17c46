"""Writes one line of metrics an epoch: learning curves that need no logger, and a run's pulse."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.result import EPOCHS

KEYS = ("train/loss", "val/loss", "val/acc", "train/lr")


class EpochLines(Checkpoint):
    """Appends to ``epochs.jsonl`` after each epoch. A run that went on may repeat an epoch: the later line counts.

    A Checkpoint, because Lightning calls those last, when all of the epoch's metrics are there.

    Args:
        folder: The run's folder.
        seconds: Says how long the run has been fitting.
    """

    def __init__(self, folder: Path, seconds: Callable[[], float]) -> None:
        self.path, self.seconds = folder / EPOCHS, seconds

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        found = trainer.callback_metrics
        values = {key: float(found[key]) for key in KEYS if key in found}
        line = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        line |= {key: value if math.isfinite(value) else None for key, value in values.items()}
        line |= {"seconds": round(self.seconds(), 3)}
        with self.path.open("ab+") as file:
            # A run that was killed may have left half a line.
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write((json.dumps(line) + "\n").encode())
