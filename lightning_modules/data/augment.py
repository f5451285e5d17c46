"""Augment whole batches on their device, with random numbers per image and without waiting for the device.

Crops and flips are not here: they determine where an image is read (`lightning_modules.data.store`, `…folder`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

ERASED_AREA, ERASED_RATIO, TRIES = (0.02, 0.33), (0.3, 3.3), 10
"""Random erasing, as in the paper and in torchvision: share of the image's area, height / width, number of draws."""


@dataclass(frozen=True)
class Augment:
    """Augmentation of pixels. Draws come from the global generator of the batch's device.

    Attributes:
        rotate: Maximum rotation in degrees, to either side.
        zoom: Maximum zoom as a fraction, in and out.
        shift: Maximum shift as a fraction of the image's size, in each direction, rounded to whole pixels.
        cutout: Side in pixels of the square that is erased (DeVries & Taylor 2017, arXiv:1708.04552).
        random_erasing: Fraction of the images that lose a rectangle (Zhong et al. 2017, arXiv:1708.04896).
    """

    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    cutout: int = 0
    random_erasing: float = 0.0

    def warp(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate about the centre, zoom, then shift; bilinear, black outside, like torchvision's ``RandomAffine``.

        Args:
            x: Square images (N, C, S, S), black = 0.
        """
        if not (self.rotate or self.zoom or self.shift):
            return x
        angle, zoom, right, down = (2 * torch.rand(4, len(x), device=x.device) - 1).unbind()
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.zoom
        # grid_sample needs each pixel's source, so this is the inverse transform. The image spans -1 to 1.
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        size = x.shape[-1]
        right, down = ((move * self.shift * size).round() * (2 / size) for move in (right, down))
        matrix = torch.stack([cos, -sin, sin * down - cos * right, sin, cos, -sin * right - cos * down], dim=1)
        to_x, to_y, to_1 = matrix.view(-1, 2, 3, 1, 1).unbind(2)
        across = _centres(size, x.device)
        # Separate planes of x and y: faster than affine_grid's pairs, and never a matrix product in reduced precision.
        grid = torch.addcmul(to_y * across[:, None] + to_1, to_x, across)
        return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=False)

    def erase(self, x: torch.Tensor) -> torch.Tensor:
        """Erase in place, with 0, which is the mean colour of normalised images.

        Args:
            x: Normalised images (N, C, H, W).
        """
        n, _, height, width = x.shape
        if self.cutout:
            # The centre may be anywhere in the image; the part of the square outside the image is cut off.
            top = torch.randint(0, height, (n,), device=x.device) - self.cutout // 2
            left = torch.randint(0, width, (n,), device=x.device) - self.cutout // 2
            x = _fill(x, top, left, top + self.cutout, left + self.cutout)
        if self.random_erasing:
            x = self._rectangle(x)
        return x

    def _rectangle(self, x: torch.Tensor) -> torch.Tensor:
        """Erase the first of `TRIES` rectangles that fits; all tries of all images are drawn at once."""
        n, _, height, width = x.shape
        area, ratio = torch.rand(2, TRIES, n, device=x.device).unbind()
        area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area)
        low, high = (math.log(r) for r in ERASED_RATIO)
        ratio = (low + (high - low) * ratio).exp()
        high, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (high < height) & (wide < width)
        first = fits.int().argmax(0, keepdim=True)  # argmax returns the first of equal values
        high, wide, fits = (t.gather(0, first)[0] for t in (high, wide, fits))
        erased, down, across = torch.rand(3, n, device=x.device).unbind()
        high = high * ((erased < self.random_erasing) & fits)
        top, left = (down * (height - high + 1)).floor(), (across * (width - wide + 1)).floor()
        return _fill(x, top, left, top + high, left + wide)


@dataclass(frozen=True)
class Mix:
    """Mixes each image of a batch, and its label, with the one before it, like torchvision's MixUp and CutMix.

    A batch shares one mixing ratio, drawn from Beta(alpha, alpha). If both methods are on, each batch gets one of them
    with equal probability. The draws are plain numbers from the CPU's generator, so the host never waits for a GPU.

    Attributes:
        classes: Number of classes.
        mixup: alpha; 0: off (Zhang et al. 2017, arXiv:1710.09412).
        cutmix: alpha; 0: off (Yun et al. 2019, arXiv:1905.04899).
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, C, H, W) and int64 (N,) to the same shape and float32 (N, classes); unchanged if both are off."""
        if not (self.mixup or self.cutmix):
            return x, labels
        both = self.mixup and self.cutmix
        cut = torch.rand(()).item() < 0.5 if both else bool(self.cutmix)
        share = _beta(self.cutmix if cut else self.mixup)
        if cut:
            x, share = self._paste(x, share)
        else:
            x = x.lerp(x.roll(1, 0), 1 - share)
        one_hot = (labels[:, None] == torch.arange(self.classes, device=labels.device)).float()
        return x, one_hot.lerp(one_hot.roll(1, 0), 1 - share)

    @staticmethod
    def _paste(x: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
        height, width = x.shape[-2:]
        column, row = (torch.randint(0, size, ()).item() for size in (width, height))
        half = 0.5 * math.sqrt(1 - share)
        wide, high = int(half * width), int(half * height)
        left, right = max(column - wide, 0), min(column + wide, width)
        top, bottom = max(row - high, 0), min(row + high, height)
        x[:, :, top:bottom, left:right] = x[:, :, top:bottom, left:right].roll(1, 0)
        return x, 1 - (right - left) * (bottom - top) / (width * height)


def _beta(alpha: float) -> float:
    return torch.distributions.Beta(alpha, alpha, validate_args=False).sample().item()


@lru_cache(maxsize=8)
def _centres(size: int, device: torch.device) -> torch.Tensor:
    """Return the coordinates of the pixels' centres, for an image that spans -1 to 1."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _fill(
    x: torch.Tensor, top: torch.Tensor, left: torch.Tensor, bottom: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Set each image's rectangle to 0: from top and left, up to but excluding bottom and right; (N,) each."""
    y, x_ = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x_ >= left[:, None]) & (x_ < right[:, None])
    return x.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0)
