"""Reject configurations that cannot fit in memory."""

from __future__ import annotations

import os
from typing import Any

from lightning_modules.config.scaling import find_scale, image_sizes
from lightning_modules.config.schema import CellSpec
from zoo.deploy.checkpoint import LARGEST_IMAGE
from zoo.errors import ConvzooError

ANY_MACHINE = 2**42
"""Bytes that no machine has: 4 TiB."""
BYTES_A_WEIGHT = 16
"""Of a float32 weight with its gradient and an optimizer's two moments."""
GROWTH, MANY_CLASSES = 8, 100_000
"""A network that is scaled to no more than this, with fewer classes than this, is not counted: counting takes time."""


def check_images(spec: CellSpec, memory: int = ANY_MACHINE) -> None:
    """Checks that a batch, and what is kept in memory of the data set, can be had.

    Args:
        spec: The cell.
        memory: Bytes that there are.

    Raises:
        ConvzooError: They cannot.
    """
    data, size = spec.data, image_sizes(spec)[1]
    if size > LARGEST_IMAGE:
        raise ConvzooError(
            f"images of {size} pixels a side are too large. Allowed: {LARGEST_IMAGE} and less. Type a smaller "
            "data.image_size or scale."
        )
    pixels = size**2 * data.in_chans
    _check(data.batch_size * pixels * 4, memory, "one batch of images", "data.batch_size or data.image_size")
    padded = (size + 2 * (data.augment.crop_padding or 0)) ** 2 * data.in_chans
    # Digits and noise are stored at the size that is asked for; what else there is has a size of its own.
    images = {"digits": 1797, "synthetic": data.images or 0}.get(data.name, 0)
    _check(images * padded, memory, "the data set", "data.images, data.image_size or data.augment.crop_padding")


def check_memory(spec: CellSpec, network: dict[str, Any]) -> None:
    """Checks that this machine's memory can hold a cell: its images, and its network's weights while it trains.

    Raises:
        ConvzooError: It cannot.
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
