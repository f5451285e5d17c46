"""Logs what a network costs: parameters, MACs, activations. Works with anybody's LightningModule."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback

import zoo
from lightning_modules.callbacks.batch import images_of


class CostLogger(Callback):
    """Counts the LightningModule's forward pass for one image: ``cost/params``, ``cost/macs``, ``cost/activations``.

    The image's shape is taken from ``image_size`` and ``in_chans`` where they are given, else from the first batch. The
    counts go to every logger of the Trainer as whole numbers, and stay in ``cost``. One MAC is one multiply-add.

    Args:
        image_size: H = W, or (H, W).
        in_chans: Channels of the image; goes with ``image_size``.
    """

    def __init__(self, image_size: int | tuple[int, int] | None = None, in_chans: int = 3) -> None:
        self.image_size, self.in_chans = image_size, in_chans
        self._reset()

    @property
    def metrics(self) -> dict[str, int]:
        """What is logged; empty before it has been counted, parameters only where the rest cannot be."""
        params = {} if self._params is None else {"cost/params": self._params}
        return (self.cost.metrics if self.cost else {}) | params

    def _reset(self) -> None:
        self.cost: zoo.Cost | None = None
        self._params: int | None = None

    def _count(self, trainer: Any, module: Any, batch: Any) -> None:
        if self._params is not None:
            return
        self._params = sum(p.numel() for p in module.parameters())
        try:
            self.cost = zoo.cost(module, *self._shape(batch))
        except Exception as error:  # Whatever their forward pass does, it must not end their training.
            warnings.warn(
                f"CostLogger could not count the forward pass of {type(module).__name__} ({error}); "
                "it logs cost/params only. CostLogger(image_size=…, in_chans=…) says what the input is.",
                stacklevel=2,
            )
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, trainer.global_step)

    def _shape(self, batch: Any) -> tuple[int | tuple[int, int], int]:
        if self.image_size is not None:
            return self.image_size, self.in_chans
        images = images_of(batch)
        if images is None:
            raise zoo.ConvzooError("no images (N, C, H, W) in the batch")
        in_chans, height, width = images.shape[1:]
        return (height, width), in_chans

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._reset()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._count(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._count(trainer, pl_module, batch)
