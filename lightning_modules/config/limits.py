"""Rejects configurations that cannot fit in memory."""

from __future__ import annotations

import os
from typing import Any

from lightning_modules.config.scaling import find_scale, image_sizes
from lightning_modules.config.schema import CellSpec
from zoo.deploy.checkpoint import LARGEST_IMAGE
from zoo.errors import ConvzooError

ANY_MACHINE = 2**42
"""More bytes than any machine has: 4 TiB."""
BYTES_A_WEIGHT = 16
"""Memory of a float32 weight, its gradient and an optimizer's two moments."""
GROWTH, MANY_CLASSES = 8, 100_000
"""Networks up to this growth (width² × depth) and this many classes are not counted, since counting takes time."""


def check_images(spec: CellSpec, memory: int = ANY_MACHINE) -> None:
    """Checks that a batch, and the part of the data set that is kept in memory, fit.

    Args:
        spec: The cell.
        memory: Available bytes.

    Raises:
        ConvzooError: An image is too large, or they do not fit.
    """
    data, size = spec.data, image_sizes(spec)[1]
    if size.longer > LARGEST_IMAGE:
        raise ConvzooError(
            f"images of {size} pixels are too large. Allowed: {LARGEST_IMAGE} and less a side. Type a smaller "
            "data.image_size or scale."
        )
    pixels = size.pixels * data.in_chans
    _check(data.batch_size * pixels * 4, memory, "one batch of images", "data.batch_size or data.image_size")
    margin = 2 * (data.augment.crop_padding or 0)
    padded = (size.height + margin) * (size.width + margin) * data.in_chans
    # Only digits and synthetic images are stored at the requested size; other data sets keep their own.
    images = {"digits": 1797, "synthetic": data.images or 0}.get(data.name, 0)
    _check(images * padded, memory, "the data set", "data.images, data.image_size or data.augment.crop_padding")


def check_memory(spec: CellSpec, network: dict[str, Any]) -> None:
    """Checks that a cell fits into this machine's memory: its images, and its network's weights during training.

    Raises:
        ConvzooError: It does not.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    check_images(spec, memory)
    scale = find_scale(spec)
    depth = max(scale.depth, default=1) if isinstance(scale.depth, (list, tuple)) else scale.depth
    if network["width"] ** 2 * depth <= GROWTH and network["num_classes"] <= MANY_CLASSES:
        return
    from zoo.builder import build
    from zoo.meta import meta_init
    from zoo.surgery.rewrite import params_of

    with meta_init():
        weights = params_of(build(**{**network, "pretrained": False}))
    _check(weights * BYTES_A_WEIGHT, memory, f"training {weights:,} weights", "scale or data.num_classes")


def _check(needed: int, memory: int, what: str, key: str) -> None:
    if needed > memory:
        raise ConvzooError(
            f"{what} would take {needed / 2**30:,.0f} GiB, and {'no' if memory == ANY_MACHINE else 'this'} machine has "
            f"{'that much' if memory == ANY_MACHINE else f'{memory / 2**30:,.0f} GiB'}. Type a smaller {key}."
        )
