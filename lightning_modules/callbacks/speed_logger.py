"""Log training throughput in images/s, including the wait for data. Works with any LightningModule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_modules.callbacks.inputs import Inputs
from lightning_modules.callbacks.stopwatch import FETCH, TRAIN, Stopwatch
from zoo.speeds.timing import Spread

WARMUP = 3
"""Number of batches left out at the start, while allocators, thread pools and kernels warm up."""


class SpeedLogger(Callback):
    """Measures training throughput, including the wait for data, and logs it once per epoch.

    Logs ``speed/train_images_per_s`` (median over windows), ``speed/train_images_per_s_iqr``, and ``speed/data_wait``,
    the share of that time spent waiting for the next batch. The first batches are left out, and so is everything
    that is not training (see `Stopwatch`). A window is one batch on a CPU and ``window`` batches on an accelerator. In
    a distributed job the throughput is that of all ranks: their images over the slowest rank's time.

    The number of images in a batch is the first of these that is known: the result of ``images``; the ``batch_size``
    that ``training_step`` passes to ``self.log``; the number that the module's ``forward`` receives, or its networks if
    ``forward`` is not called (see `Inputs`). If none is known, nothing is logged, and a warning says so.

    A short run is measured too: if no batch is left after the warm-up, the last batch of the warm-up is used.

    Args:
        window: Number of batches in a window on an accelerator.
        images: Returns the number of images in a batch.
    """

    def __init__(self, window: int = 20, images: Callable[[Any], int] | None = None) -> None:
        self.window, self.images = window, images
        self._stopwatch: Stopwatch | None = None
        self._inputs: Inputs | None = None
        self._reset()

    def _reset(self) -> None:
        self._stop()
        self._samples: list[tuple[float, float]] = []  # one per window: this rank's images/s, share spent on fetching
        self._fallback: tuple[float, float] | None = None
        self._open: list[Any] = []  # (marks, images) of the batches in the window that is not full
        self._full: list[Any] = []  # those of the previous window, which is read when the next one is full
        self._seen = 0
        self._uncounted = self._told = False
        self.rate: Spread | None = None
        self.data_wait: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The logged values; empty before the end of the first epoch."""
        if self.rate is None:
            return {}
        return {
            "speed/train_images_per_s": self.rate.median,
            "speed/train_images_per_s_iqr": self.rate.iqr,
            "speed/data_wait": self.data_wait,
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._reset()
        self._stopwatch = Stopwatch(trainer, pl_module)
        self._inputs = None if self.images else Inputs(trainer, pl_module)
        self._batches = 1 if pl_module.device.type == "cpu" else self.window

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._inputs:
            self._inputs.begin(batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        marks = self._stopwatch.batch()
        images = self.images(batch) if self.images else self._inputs.images(batch)
        if not marks or not images:
            self._uncounted = True
            return
        self._seen += 1
        self._open.append((marks, images))
        if self._seen <= WARMUP:
            self._read_open(warm=False)
        elif len(self._open) >= self._batches:
            if self._full:
                self._samples.append(self._read(self._full))
            self._full, self._open = self._open, []

    def _read(self, batches: list[Any]) -> tuple[float, float]:
        took = self._stopwatch.seconds([marks for marks, _ in batches])
        seconds = max(took[FETCH] + took[TRAIN], 1e-9)
        return sum(images for _, images in batches) / seconds, took[FETCH] / seconds

    def _read_open(self, warm: bool) -> None:
        if self._open:
            self._fallback, self._open = self._read(self._open), []
            if warm:
                self._samples.append(self._fallback)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._full:
            self._samples.append(self._read(self._full))
            self._full = []
        if not self._samples:
            # An epoch may be shorter than a window.
            self._read_open(warm=True)
        samples = self._samples or ([self._fallback] if self._fallback else [])
        own = Spread.of([rate for rate, _ in samples]) if samples else Spread(0.0, 0.0)
        wait = Spread.of([wait for _, wait in samples]).median if samples else 0.0
        mine = torch.tensor([own.median, own.iqr, wait], dtype=torch.float32, device=pl_module.device)
        ranks = trainer.strategy.all_gather(mine).view(-1, 3)
        # Ranks wait for each other: the job is as fast as its slowest rank, times their number.
        slowest = ranks[ranks[:, 0].argmin()]
        if not slowest[0]:
            self._say_why(trainer)
            return
        self.rate = Spread(slowest[0].item() * len(ranks), slowest[1].item() * len(ranks))
        self.data_wait = ranks[:, 2].max().item()
        # If a step fetches its own batches, Lightning requires a batch size for whatever is logged.
        pl_module.log_dict(self.metrics, rank_zero_only=True, batch_size=1)

    def _say_why(self, trainer: Any) -> None:
        if self._uncounted and not self._told and trainer.is_global_zero:
            warnings.warn(
                "SpeedLogger logs nothing: no images reached the network that it could count. "
                "SpeedLogger(images=lambda batch: …) or self.log(…, batch_size=…) says how many a batch has.",
                stacklevel=2,
            )
        self._told = True

    def _stop(self) -> None:
        for part in (self._stopwatch, self._inputs):
            if part:
                part.stop()
        self._stopwatch = self._inputs = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop()
