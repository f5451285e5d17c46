"""Choose the part of a decoded image that the network sees."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torchvision.transforms import v2

RATIO = (3 / 4, 4 / 3)
"""Range of width / height of a random crop; the usual one."""

LONGEST = 8
"""Maximum ratio of the longer to the shorter side; a longer image is cut to it before it is resized."""


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(height: int, width: int, scale: tuple[float, float], draws: random.Random) -> Box:
    """Draw a crop from the distribution of torchvision's ``RandomResizedCrop`` (Szegedy et al. 2014, arXiv:1409.4842).

    Args:
        height, width: Size of the image.
        scale: Minimum and maximum of the crop's share of the image's area.
        draws: Source of random numbers.
    """
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        ratio = math.exp(draws.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return Box(draws.randint(0, height - high), draws.randint(0, width - wide), high, wide)
    # No drawn crop fits: take the largest central one within RATIO, like torchvision.
    wide, high = width, height
    if width / height < RATIO[0]:
        high = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def central(pixels: torch.Tensor, size: int, share: float) -> torch.Tensor:
    """Resize an image and crop its centre.

    Args:
        pixels: uint8 (H, W, 3).
        size: Side of the result in pixels.
        share: ``size`` over the shorter side of the resized image.
    """
    image = pixels.permute(2, 0, 1)
    # Without this, one row of 5,000 pixels would become 256 rows of 1,280,000, of which only the middle is used.
    longest = LONGEST * min(image.shape[1:])
    image = v2.functional.center_crop(image, [min(longest, side) for side in image.shape[1:]])
    image = v2.functional.resize(image, [round(size / share)])
    return v2.functional.center_crop(image, [size, size]).permute(1, 2, 0)
