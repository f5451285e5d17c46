"""Turn a batch's bytes into the network's input, on the batch's device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lightning_modules.data.augment import Augment


class Prepare:
    """Resizes, augments (in training only) and normalises a batch.

    Args:
        image_size: Side in pixels to which images of another size are resized (bilinear, antialiased).
        mean, std: Mean and standard deviation per channel, for images from 0 to 1.
        augment: Augmentation in training; None: none.
    """

    def __init__(self, image_size: int, mean: list[float], std: list[float], augment: Augment | None = None) -> None:
        self.image_size, self.augment = image_size, augment or Augment()
        self._scale = 1 / (255 * torch.tensor(std))
        self._bias = -torch.tensor(mean) / torch.tensor(std)
        self._rows: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, images: torch.Tensor, training: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Map uint8 (N, C, h, w) to ``dtype`` (N, C, image_size, image_size), channels last in memory."""
        x = images.to(torch.float32, copy=True)
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        if training:
            x = self.augment.warp(x)
        x = self._normalise(x).to(dtype)
        return self.augment.erase(x) if training else x

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        if x.device not in self._rows:
            self._rows[x.device] = tuple(v.repeat(self.image_size).to(x.device) for v in (self._scale, self._bias))
        scale, bias = self._rows[x.device]
        # Work on rows of pixels: an innermost dimension of three channels is slow.
        rows = x.permute(0, 2, 3, 1).reshape(-1, self.image_size * x.shape[1])
        torch.addcmul(bias, rows, scale, out=rows)
        return rows.view(len(x), *x.shape[-2:], x.shape[1]).permute(0, 3, 1, 2)
