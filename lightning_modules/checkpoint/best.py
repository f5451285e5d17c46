"""Keeps the best checkpoint of a run, ``best.ckpt``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging

NAME = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the checkpoint with the highest ``val/acc``; ties go to the latest, which trained longest.

    It holds the weights and the arguments that build their network, but not the optimizer: enough for testing and for
    `zoo.load`.

    Args:
        folder: The run's folder.

    Attributes:
        path: The file's path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / NAME
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/acc",
            mode="max",
            save_weights_only=True,
            enable_version_counter=False,
        )

    # Lightning checks after every batch whether to save; this callback saves only when val/acc is known.
    on_train_batch_end = Callback.on_train_batch_end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # If the folder was moved, Lightning would drop the record of the best checkpoint.
        here, paths = str(self.path), ("best_model_path", "kth_best_model_path")
        moved = {key: here for key in paths if state_dict[key]}
        moved["best_k_models"] = dict.fromkeys([here], state_dict["best_model_score"]) if moved else {}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath})

    def _should_skip_saving_checkpoint(self, trainer: Any) -> bool:
        return self.monitor not in trainer.callback_metrics or super()._should_skip_saving_checkpoint(trainer)

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        # Averaged weights were validated, but are swapped out again by now.
        averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging) and c._average_model is not None]
        for average in averages:
            average._swap_models(trainer.lightning_module)
        super()._save_checkpoint(trainer, filepath)
        for average in averages:
            average._swap_models(trainer.lightning_module)

    def check_monitor_top_k(self, trainer: Any, current: torch.Tensor | None = None) -> bool:
        equal = current is not None and bool(self.best_k_models) and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)
