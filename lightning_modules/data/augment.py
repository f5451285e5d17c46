"""What happens to a batch of images on the device: scale, enlarge, augment, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augment:
    """Augmentation of a whole batch, each image with numbers of its own.

    Attributes:
        crop_padding: Pixels of black padding before a random crop of the original size.
        hflip: Flip half of the images left to right.
        rotate: Degrees, to either side.
        zoom: Share, in and out.
        shift: Share of the image's size, in each direction.
    """

    crop_padding: int = 0
    hflip: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in 0 to 1, black = 0 → the same shape."""
        if self.rotate or self.zoom or self.shift:
            x = self._affine(x)
        if self.crop_padding:
            x = self._crop(x)
        if self.hflip:
            flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(flip, x.flip(-1), x)
        return x

    def _affine(self, x: torch.Tensor) -> torch.Tensor:
        angle, zoom, dx, dy = (2 * torch.rand(4, len(x), device=x.device) - 1).unbind()
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.zoom
        # affine_grid's coordinates run from -1 to 1: a shift by the whole image is 2.
        dx, dy = 2 * self.shift * dx, 2 * self.shift * dy
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        matrix = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3).to(x.dtype)
        return F.grid_sample(x, F.affine_grid(matrix, x.shape, align_corners=False), align_corners=False)

    def _crop(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        pad = self.crop_padding
        padded = F.pad(x, [pad] * 4)
        top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), device=x.device).unbind()
        rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
        images, channels = torch.arange(n, device=x.device)[:, None, None, None], torch.arange(x.shape[1])
        return padded[images, channels.to(x.device)[None, :, None, None], rows, columns]


@dataclass(frozen=True)
class Prepare:
    """From the bytes of a batch to what the network sees.

    Attributes:
        image_size: Images of another size are enlarged or reduced (bilinear) to this many pixels a side.
        mean, std: Per channel, of images in 0 to 1.
        augment: Applied in training only.
    """

    image_size: int
    mean: list[float]
    std: list[float]
    augment: Augment = field(default_factory=Augment)

    def __call__(self, images: torch.Tensor, training: bool) -> torch.Tensor:
        """uint8 (N, C, h, w) → float (N, C, image_size, image_size), channels last in memory."""
        x = images.float() / 255
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        if training:
            x = self.augment(x)
        mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)
