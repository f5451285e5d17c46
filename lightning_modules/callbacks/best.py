"""Keeps the best checkpoint."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the highest ``val/acc``, of equals the latest, which has trained the longest.

    It holds the weights and how to build their network, not the optimizer: for testing and for `zoo.load`.

    Args:
        folder: Where to keep it.
        validates: Whether the run validates at all; if not, the last weights are kept.
    """

    def __init__(self, folder: str | os.PathLike[str], validates: bool = True) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/acc" if validates else None,
            mode="max",
            save_weights_only=True,
            enable_version_counter=False,
        )

    def check_monitor_top_k(self, trainer: Any, current: torch.Tensor | None = None) -> bool:
        equal = current is not None and bool(self.best_k_models) and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)
