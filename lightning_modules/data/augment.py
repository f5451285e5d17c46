"""Turn a batch's bytes into the network's input, on its device: resize, augment, normalise, mix.

Every image of a batch gets random numbers of its own, and the host never waits for the device. Crops and flips are not
here: they determine where an image is read (`lightning_modules.data.store`, `…folder`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as F

from lightning_modules.config.schema import AugmentOptions
from zoo.image_size import ImageSize, Size

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

    @classmethod
    def of(cls, options: AugmentOptions) -> Augment:
        """Take the values of the configuration's augment group; what the data set does not define stays off."""
        values = options.plain()
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def warp(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate about the centre, zoom, then shift; bilinear, black outside, like torchvision's ``RandomAffine``.

        Args:
            x: Images (N, C, H, W), black = 0.
        """
        if not (self.rotate or self.zoom or self.shift):
            return x
        angle, zoom, right, down = (2 * torch.rand(4, len(x), device=x.device) - 1).unbind()
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.zoom
        # grid_sample needs each pixel's source, so this is the inverse transform. The image spans -1 to 1 on each axis.
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        height, width = x.shape[-2:]
        right, down = (
            (move * self.shift * side).round() * (2 / side) for move, side in ((right, width), (down, height))
        )
        of_y, of_x = sin * (height / width), sin * (width / height)
        matrix = torch.stack([cos, -of_y, of_y * down - cos * right, of_x, cos, -of_x * right - cos * down], dim=1)
        to_x, to_y, to_1 = matrix.view(-1, 2, 3, 1, 1).unbind(2)
        # Separate planes of x and y: faster than affine_grid's pairs, and never a matrix product in reduced precision.
        grid = torch.addcmul(to_y * _centres(height, x.device)[:, None] + to_1, to_x, _centres(width, x.device))
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


class Prepare:
    """Resizes, augments (in training only) and normalises a batch.

    Args:
        image_size: Size to which images of another size are resized (bilinear, antialiased), whatever their shape.
        mean, std: Mean and standard deviation per channel, for images from 0 to 1.
        augment: Augmentation in training; None: none.
    """

    def __init__(self, image_size: Size, mean: list[float], std: list[float], augment: Augment | None = None) -> None:
        self.image_size, self.augment = ImageSize.of(image_size), augment or Augment()
        self._scale = 1 / (255 * torch.tensor(std))
        self._bias = -torch.tensor(mean) / torch.tensor(std)
        self._rows: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, images: torch.Tensor, training: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Map bytes, or brightness 0 to 1 in floating point, (N, C, h, w) to ``dtype`` (N, C, H, W) of ``image_size``.

        The result is channels last in memory.
        """
        x = images.to(torch.float32, copy=True)
        if images.is_floating_point():
            x *= 255
        if tuple(x.shape[-2:]) != self.image_size:
            x = F.interpolate(x, self.image_size, mode="bilinear", antialias=True)
        if training:
            x = self.augment.warp(x)
        x = self._normalise(x).to(dtype)
        return self.augment.erase(x) if training else x

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        if x.device not in self._rows:
            self._rows[x.device] = tuple(
                v.repeat(self.image_size.width).to(x.device) for v in (self._scale, self._bias)
            )
        scale, bias = self._rows[x.device]
        # Work on rows of pixels: an innermost dimension of three channels is slow.
        rows = x.permute(0, 2, 3, 1).reshape(-1, self.image_size.width * x.shape[1])
        torch.addcmul(bias, rows, scale, out=rows)
        return rows.view(len(x), *x.shape[-2:], x.shape[1]).permute(0, 3, 1, 2)


Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From images (N, C, H, W) and labels int64 (N,) to the same shape and float32 (N, classes)."""


def make_mix(classes: int, mixup: float | None = 0.0, cutmix: float | None = 0.0) -> Mix | None:
    """Return torchvision's MixUp, CutMix, or one of them at even odds for each batch; None if both are off.

    Both mix each image of a batch, and its label, with the one before it. They draw from the CPU's generator.

    Args:
        classes: Number of classes.
        mixup: alpha of Beta(alpha, alpha); 0: off (Zhang et al. 2017, arXiv:1710.09412).
        cutmix: alpha; 0: off (Yun et al. 2019, arXiv:1905.04899).
    """
    if not (mixup or cutmix):
        return None
    from torchvision.transforms import v2

    on = [
        kind(alpha=float(alpha), num_classes=classes)
        for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    return v2.RandomChoice(on)


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
