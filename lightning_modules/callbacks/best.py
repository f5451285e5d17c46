"""Keeps the best checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the highest ``val/acc``, of equals the latest, which has trained the longest.

    It holds the weights and how to build their network, not the optimizer: for testing and for `zoo.load`.

    Attributes:
        path: Where it is.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "best.ckpt"
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/acc",
            mode="max",
            save_weights_only=True,
            enable_version_counter=False,
        )

    # Lightning's asks after every batch whether to save, which this one does only when it knows val/acc.
    on_train_batch_end = Callback.on_train_batch_end

    def _should_skip_saving_checkpoint(self, trainer: Any) -> bool:
        return self.monitor not in trainer.callback_metrics or super()._should_skip_saving_checkpoint(trainer)

    def check_monitor_top_k(self, trainer: Any, current: torch.Tensor | None = None) -> bool:
        equal = current is not None and bool(self.best_k_models) and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)
