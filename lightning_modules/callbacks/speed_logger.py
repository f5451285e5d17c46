"""Log training throughput in images/s, including the wait for data. Works with any LightningModule."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_modules.callbacks.inputs import Inputs
from lightning_modules.callbacks.stopwatch import FETCH, TRAIN, Mark, Stopwatch
from zoo.speeds.timing import Spread

WARMUP = 3
"""Number of batches left out at the start, while allocators, thread pools and kernels warm up."""

Batch = tuple[list[Mark], int]
"""One batch: the stopwatch's marks, and the number of images."""
Sample = tuple[float, float]
"""One window on this rank: images/s, and the share of the time spent on fetching."""


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
        self.rate: Spread | None = None
        self.data_wait: float | None = None
        # During training: a Stopwatch, and Inputs unless ``images`` counts.
        self._stopwatch: Any = None
        self._inputs: Any = None

    @property
    def metrics(self) -> dict[str, float]:
        """The logged values; empty before the end of the first epoch."""
        if self.rate is None or self.data_wait is None:
            return {}
        return {
            "speed/train_images_per_s": self.rate.median,
            "speed/train_images_per_s_iqr": self.rate.iqr,
            "speed/data_wait": self.data_wait,
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._stop()
        self.rate = self.data_wait = None
        self._samples: list[Sample] = []  # of the windows
        self._warmup: list[Sample] = []  # of the last batch of the warm-up
        self._unread: list[Batch] = []  # up to two windows: one is read when the next is full, so the device runs on
        self._seen = 0
        self._uncounted = self._warned = False
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
        self._unread.append((marks, images))
        if self._seen <= WARMUP:
            self._warmup = [self._read(1)]
        elif len(self._unread) == 2 * self._batches:
            self._samples.append(self._read(self._batches))

    def _read(self, batches: int) -> Sample:
        """Wait for the device to finish the first unread batches, and measure them."""
        window, self._unread = self._unread[:batches], self._unread[batches:]
        took = self._stopwatch.seconds([marks for marks, _ in window])
        seconds = max(took[FETCH] + took[TRAIN], 1e-9)
        return sum(images for _, images in window) / seconds, took[FETCH] / seconds

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # An epoch may be shorter than a window.
        if len(self._unread) >= self._batches or (self._unread and not self._samples):
            self._samples.append(self._read(self._batches))
        samples = self._samples or self._warmup or [(0.0, 0.0)]
        own = Spread.of([rate for rate, _ in samples])
        wait = Spread.of([wait for _, wait in samples]).median
        mine = torch.tensor([own.median, own.iqr, wait], dtype=torch.float32, device=pl_module.device)
        ranks = trainer.strategy.all_gather(mine).view(-1, 3)
        # Ranks wait for each other: the job is as fast as its slowest rank, times their number.
        slowest = ranks[ranks[:, 0].argmin()]
        if not slowest[0]:
            self._warn(trainer)
            return
        self.rate = Spread(slowest[0].item(), slowest[1].item()).scaled(len(ranks))
        self.data_wait = ranks[:, 2].max().item()
        # If a step fetches its own batches, Lightning requires a batch size for whatever is logged.
        pl_module.log_dict(self.metrics, rank_zero_only=True, batch_size=1)

    def _warn(self, trainer: Any) -> None:
        if self._uncounted and not self._warned and trainer.is_global_zero:
            warnings.warn(
                "SpeedLogger logs nothing: it found no images in the inputs of the network. "
                "Pass SpeedLogger(images=lambda batch: …) or self.log(…, batch_size=…).",
                stacklevel=2,
            )
        self._warned = True

    def _stop(self) -> None:
        for part in (self._stopwatch, self._inputs):
            if part:
                part.stop()
        self._stopwatch = self._inputs = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop()
