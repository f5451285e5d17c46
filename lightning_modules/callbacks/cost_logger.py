"""Logs what a network costs: parameters, MACs, activations. Works with anybody's LightningModule."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback

import zoo


def images_of(batch: Any) -> torch.Tensor | None:
    """The first tensor of at least two dimensions in a batch, however it is nested."""
    if isinstance(batch, torch.Tensor):
        return batch if batch.ndim > 1 else None
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return next((found for part in parts if (found := images_of(part)) is not None), None)


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
        self.cost: zoo.Cost | None = None

    @property
    def metrics(self) -> dict[str, int]:
        """What is logged; empty before it has been counted."""
        if self.cost is None:
            return {}
        return {
            "cost/params": self.cost.params,
            "cost/macs": self.cost.macs,
            "cost/activations": self.cost.activations,
        }

    def _count(self, trainer: Any, module: Any, batch: Any) -> None:
        if self.cost is not None:
            return
        size, in_chans = self.image_size, self.in_chans
        if size is None:
            images = images_of(batch)
            if images is None or images.ndim != 4:
                raise zoo.ConvzooError(
                    "CostLogger found no images (N, C, H, W) in the batch. Say what they are: "
                    "CostLogger(image_size=224, in_chans=3)."
                )
            in_chans, *size = images.shape[1:]
        self.cost = zoo.cost(module, tuple(size) if not isinstance(size, int) else size, in_chans)
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, trainer.global_step)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._count(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._count(trainer, pl_module, batch)
