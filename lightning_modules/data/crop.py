"""Choose the part of a decoded image that the network sees."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torchvision.transforms import v2

from zoo.image_size import ImageSize

RATIO = (3 / 4, 4 / 3)
"""Range of width / height of a random crop, relative to that of the result; the usual one."""

LONGEST = 8
"""Maximum ratio of the longer to the shorter side, relative to the result; a longer image is cut to it first."""


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(height: int, width: int, scale: tuple[float, float], draws: random.Random, size: ImageSize) -> Box:
    """Draw a crop from the distribution of torchvision's ``RandomResizedCrop`` (Szegedy et al. 2014, arXiv:1409.4842).

    torchvision's crops are about square, whatever they are resized to. Here they have about the shape of the result, so
    that a rectangle distorts them no more than a square does.

    Args:
        height, width: Size of the image.
        scale: Minimum and maximum of the crop's share of the image's area.
        draws: Source of random numbers.
        size: Size that the crop is resized to.
    """
    shape = size.width / size.height
    narrowest, widest = RATIO[0] * shape, RATIO[1] * shape
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        ratio = math.exp(draws.uniform(math.log(RATIO[0]), math.log(RATIO[1]))) * shape
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return Box(draws.randint(0, height - high), draws.randint(0, width - wide), high, wide)
    # No drawn crop fits: take the largest central one within RATIO, like torchvision.
    wide, high = width, height
    if width / height < narrowest:
        high = round(width / narrowest)
    elif width / height > widest:
        wide = round(height * widest)
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def central(pixels: torch.Tensor, size: ImageSize, share: float) -> torch.Tensor:
    """Resize an image, keeping its shape, and crop its centre.

    Args:
        pixels: uint8 (H, W, 3).
        size: Size of the result.
        share: Side of the result over that of the resized image, on the axis where the image is shorter.
    """
    image = pixels.permute(2, 0, 1)
    # Without this, one row of 5,000 pixels would become 256 rows of 1,280,000, of which only the middle is used.
    height, width = image.shape[1:]
    shorter = min(height * size.width, width * size.height)
    height, width = (min(a, -(-LONGEST * shorter // b)) for a, b in ((height, size.width), (width, size.height)))
    image = v2.functional.center_crop(image, [height, width])
    covered = ImageSize(*(round(side / share) for side in size))
    image = v2.functional.resize(image, _covering(height, width, covered))
    return v2.functional.center_crop(image, list(size)).permute(1, 2, 0)


def _covering(height: int, width: int, size: ImageSize) -> list[int]:
    """Return the height and width of the smallest image of the given shape that covers ``size``."""
    if height * size.width <= width * size.height:
        return [size.height, int(size.height * width / height)]
    return [int(size.width * height / width), size.width]
