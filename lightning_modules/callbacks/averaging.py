"""Averaged weights as callbacks: validated, tested and kept in ``best.ckpt`` in place of the last ones."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn


class _Averaging(WeightAveraging):
    """Lightning's callback, with the weights themselves validated until there is an average."""

    def _swap_models(self, pl_module: Any) -> None:
        if self._has_average:
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: Any) -> None:
        if self._has_average:
            super()._copy_average_to_current(pl_module)

    @property
    def _has_average(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged)


class Ema(_Averaging):
    """Exponential moving average of the weights and of BatchNorm's statistics, after every optimizer step.

    Args:
        decay: Share of the average that one step keeps, from 0 to 1.
        start_step: Optimizer steps before the average begins.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0) -> None:
        if not 0 <= decay < 1 or start_step < 0:
            raise ValueError(f"decay={decay} is not from 0 to below 1, or start_step={start_step} is below 0")
        super().__init__(avg_fn=get_ema_avg_fn(decay))
        self.start_step = start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self.start_step


class Swa(_Averaging):
    """Mean of the weights, and of BatchNorm's statistics, after each of the last epochs.

    Source: Izmailov et al. 2018, arXiv:1803.05407, without its own learning rate: the schedule stays as configured.

    Args:
        start: Share of the epochs before the mean begins, from 0 to below 1.

    Raises:
        ValueError: ``start`` is out of its range.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ValueError(f"start={start} is not from 0 to below 1")
        super().__init__()
        self.start, self._first = start, 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._first = int(self.start * max(0, trainer.max_epochs or 0))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= self._first
