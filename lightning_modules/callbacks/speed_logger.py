"""Logs how fast training is, honestly. Works with anybody's LightningModule."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_modules.callbacks.batch import size_of
from zoo.timing import Spread, synchronize

WARMUP = 3
"""Batches left out at the start: allocators, thread pools and kernels warm up."""


class SpeedLogger(Callback):
    """Measures training throughput, waiting for data included, and logs it once an epoch.

    Logged: ``speed/train_images_per_s`` (median over windows) with ``speed/train_images_per_s_iqr``, and
    ``speed/data_wait``, the share of the time that the device waited for the next batch. Left out: the first batches,
    and everything that is not training (validation, checkpoints, other callbacks' epoch ends). Times are read once a
    window after one synchronisation: a window is one batch on a CPU and ``window`` batches elsewhere. In a distributed
    job the figure is that of all ranks: their images over the slowest one's time.

    A short run counts too: where no batch is left after the warm-up, the last one that there was is taken.

    Args:
        window: Batches between two synchronisations on an accelerator.
    """

    def __init__(self, window: int = 20) -> None:
        self.window = window
        self._reset()

    def _reset(self) -> None:
        self._seconds: list[float] = []  # per image of this rank, one sample a window
        self._waits: list[float] = []  # share of a window spent waiting for data
        self._seen = 0
        self._fallback: float | None = None
        self.rate: Spread | None = None
        self.data_wait: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged; empty before the end of the first epoch."""
        if self.rate is None:
            return {}
        return {
            "speed/train_images_per_s": self.rate.median,
            "speed/train_images_per_s_iqr": self.rate.iqr,
            "speed/data_wait": self.data_wait,
        }

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._reset()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # A run that goes on in the middle of an epoch has no start of it.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._device = pl_module.device
        self._open()
        self._batch_end = self._start

    def _open(self) -> None:
        synchronize(self._device)
        self._start = time.perf_counter()
        self._images = self._batches = 0
        self._wait = 0.0

    def _is_cpu(self) -> bool:
        return self._device.type == "cpu"

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._wait += time.perf_counter() - self._batch_end

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += size_of(batch)
        self._batches += 1
        self._seen += 1
        full = self._batches == (1 if self._is_cpu() else self.window) or self._seen <= WARMUP
        # An epoch may be shorter than a window.
        if full or (not self._seconds and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch):
            synchronize(self._device)
            seconds = time.perf_counter() - self._start
            if self._images:
                self._fallback = seconds / self._images
                if self._seen > WARMUP:
                    self._seconds.append(self._fallback)
                    self._waits.append(self._wait / seconds)
            self._open()
        self._batch_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        samples = self._seconds or ([self._fallback] if self._fallback else [])
        if not samples:
            return
        own = Spread.of([1 / s for s in samples])
        device = pl_module.device
        mine = torch.tensor([own.median, own.iqr], dtype=torch.float32, device=device)
        ranks = trainer.strategy.all_gather(mine).view(-1, 2)
        # Ranks wait for each other: the job is as fast as its slowest rank, times their number.
        slowest = ranks[ranks[:, 0].argmin()]
        self.rate = Spread(slowest[0].item() * len(ranks), slowest[1].item() * len(ranks))
        self.data_wait = Spread.of(self._waits).median if self._waits else 0.0
        pl_module.log_dict(self.metrics, rank_zero_only=True)
