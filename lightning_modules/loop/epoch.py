"""The loop over the batches of an epoch, and when it is Lightning's own."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightning_modules.loop.batch import Batch
from lightning_modules.loop.hooks import overridden
from lightning_modules.loop.known import unknown_names


def use_lean_loop(trainer: Trainer) -> None:
    """Gives a Trainer the lean loop; to be called before it fits. Works with anybody's LightningModule.

    The lean loop does what `LeanEpochLoop` says; where this Lightning's own loop does something that this file does not
    know, the Trainer keeps Lightning's loop and a warning says so.
    """
    if not torch.cuda.is_available():
        # Lightning makes torch look for GPUs through the driver's library, and Adam has it look at every step: where
        # there is none, that is a search for a missing file, 0.2 ms each time.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    if strange := unknown_names():
        warnings.warn(
            f"This Lightning's training loop is not the one that convzoo knows ({', '.join(sorted(strange))}): it is "
            "used as it is, some 0.4 ms a batch slower.",
            stacklevel=2,
        )
        return
    stock = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, min_steps=stock.min_steps, max_steps=stock.max_steps)


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, where each batch costs only what has an effect.

    For one optimizer under automatic optimization, in fp32, bf16 or true half precision, on one device or with DDP.
    Anything else runs through Lightning's own code: fp16's GradScaler, other strategies, manual optimization,
    profilers, a module with its own ``optimizer_step`` or ``on_train_batch_start`` (which may end the epoch). Callbacks
    and hooks may change between epochs.
    """

    _batch: Batch | None = None

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self._batch = None if _needs_stock(self.trainer, data_fetcher) else Batch(self)

    def advance(self, data_fetcher: Any) -> None:
        # The first batch after a restart: what of the epoch was done already is Lightning's business.
        if self._batch is None or self.restarting or self.automatic_optimization._skip_backward:
            super().advance(data_fetcher)
        else:
            self._batch.run(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        if self._batch is None or self.restarting or self._batch.ends_loudly():
            super().on_advance_end(data_fetcher)
        elif not self._batch.accumulates:
            self._batches_that_stepped += 1


STEP = ("pre_backward", "backward", "post_backward", "optimizer_step", "_wrap_closure", "_after_closure")
"""What `Batch` does in place of a precision plugin."""


def _needs_stock(trainer: Trainer, fetcher: Any) -> bool:
    """Whether the run has something that only Lightning's own code does."""
    module, strategy, precision = trainer.lightning_module, trainer.strategy, trainer.precision_plugin
    if isinstance(precision, MixedPrecision):
        special_precision = type(precision) is not MixedPrecision or precision.scaler is not None
    else:
        special_precision = any(overridden(precision, name) for name in STEP)
    return (
        special_precision
        or type(strategy) not in (SingleDeviceStrategy, DDPStrategy)
        or getattr(strategy, "_model_averager", None) is not None
        or not module.automatic_optimization
        or len(trainer.optimizers) != 1
        or isinstance(trainer.optimizers[0], LightningOptimizer)
        or type(trainer.profiler) is not PassThroughProfiler
        or isinstance(fetcher, _DataLoaderIterDataFetcher)
        or any(overridden(module, name) for name in ("optimizer_step", "on_train_batch_start"))
        or _lightning_handles_sigterm(trainer)
    )


def _lightning_handles_sigterm(trainer: Trainer) -> bool:
    """Ranks then tell each other of the signal before every batch."""
    handler = signal.getsignal(signal.SIGTERM)
    return trainer.world_size > 1 and type(handler).__module__.startswith("lightning.")
