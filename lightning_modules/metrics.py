"""A metric for epoch means with negligible overhead per batch."""

from __future__ import annotations

import torch
from torchmetrics import Metric


class Mean(Metric):
    """The mean over all images of an epoch and all ranks (sum over count), exact for ranks of unequal size.

    A torchmetrics metric, so that ``self.log``, the sum over ranks and the reset work, but with ``add`` in place of
    ``update``: the wrapper of torchmetrics takes longer than the update itself, and its own mean and accuracy inspect
    the values, which synchronizes the GPU. NaN stays NaN, so that a diverged run does not look healthy.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def add(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        """Adds a batch.

        Args:
            value: The sum over the batch, a scalar; detached from the graph.
            count: Number of images in the sum.
            weight: Multiplies the value: pass ``count`` if the value is the batch mean.
        """
        self.total.add_(value.detach(), alpha=weight)
        self.count.add_(count)
        self._update_count += 1
        self._computed = None

    def add_finite(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        """Adds a batch if its value is finite; does not synchronize the GPU."""
        finite = value.detach().isfinite()
        self.add(torch.where(finite, value, 0.0), 0, weight)
        self.count.add_(finite, alpha=count)

    def update(self, value: torch.Tensor, count: int, weight: int = 1) -> None:
        self.add(value, count, weight)

    def reset(self) -> None:
        # A tensor created in inference mode cannot be modified in place outside of it.
        with torch.inference_mode(False):
            super().reset()

    def compute(self) -> torch.Tensor:
        """Returns the mean, a scalar; NaN if no batch was added."""
        return self.total / self.count
