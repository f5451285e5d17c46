"""A mean over an epoch that costs next to nothing a batch."""

from __future__ import annotations

import torch
from torchmetrics import Metric


class Mean(Metric):
    """A sum over a count, over all images of an epoch and all ranks, however unequal their shares.

    A torchmetrics metric (for ``self.log``, the sum over ranks and the reset), but ``add`` instead of ``update``: what
    torchmetrics wraps around an update takes longer than the update, and its own mean and accuracy look at the values,
    for which a GPU has to wait. NaN stays NaN, so that a diverged run does not look fine.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def add(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        """Adds a batch.

        Args:
            value: The sum over the batch, a scalar; no gradient is kept.
            count: Over how many.
            weight: What the value is multiplied by: the count, where it is the batch's mean.
        """
        self.total.add_(value.detach(), alpha=weight)
        self.count.add_(count)
        self._update_count += 1
        self._computed = None

    def add_finite(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        """Adds a batch unless its value is not finite; no GPU has to wait for that."""
        finite = value.detach().isfinite()
        self.add(torch.where(finite, value, 0.0), 0, weight)
        self.count.add_(finite, alpha=count)

    def update(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        self.add(value, count, weight)

    def reset(self) -> None:
        # A tensor made in inference mode could not be added to outside of it.
        with torch.inference_mode(False):
            super().reset()

    def compute(self) -> torch.Tensor:
        """Scalar; NaN for no batch."""
        return self.total / self.count
