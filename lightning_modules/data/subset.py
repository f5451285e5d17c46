"""Choose some images of a data set, in proportion to its classes: the same ones in every run, whatever its seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.errors import ConvzooError

SPLIT_SEED = 0
"""Seed of all splits: a split is part of the data set and does not depend on a run's seed."""


def stratified(labels: Sequence[int], n: int) -> list[int]:
    """Return the sorted indices of ``n`` images.

    Every class has its share, rounded, but at least one image if there are enough. A smaller subset is part of a larger
    one.

    Args:
        labels: The label of each image.
        n: Number of images to choose.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))  # unlike default_rng, the same for ever
    _, kinds, counts = np.unique(np.asarray(labels)[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(kinds, kind="stable")
    within = np.empty(len(order), dtype=np.int64)
    within[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    # An image's place in its class, from 0 to 1: taken in this order, all classes fill up at the same pace.
    place = np.where(within == 0, 0, (within + 0.5) / counts[kinds])
    return np.sort(order[np.argsort(place, kind="stable")[:n]]).tolist()


def hold_out(labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Return the indices of the images that remain, and of a share that is held out (at least one image).

    Raises:
        ConvzooError: None would remain.
    """
    n = len(labels) - max(1, round(share * len(labels)))
    if n < 1:
        raise ConvzooError(f"{len(labels)} images cannot be split: none would remain for training.")
    kept = stratified(labels, n)
    return kept, sorted(set(range(len(labels))) - set(kept))


def chosen(labels: Sequence[int], n: int) -> list[int]:
    """Return the indices of ``data.train_images=N``.

    Raises:
        ConvzooError: There are not that many images, or fewer than classes are asked for.
    """
    classes = len(set(labels))
    if not classes <= n <= len(labels):
        raise ConvzooError(
            f"data.train_images={n} is not possible: there are {len(labels):,} training images of {classes:,} classes. "
            f"Allowed: {classes} to {len(labels)}."
        )
    return stratified(labels, n)
