"""Augmentations of a user's own, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from zoo.registry import Registry

AUGMENTATIONS = Registry("augment")

NONE = "none"

Augmentation = Callable[[torch.Tensor], torch.Tensor]
"""From a training batch (N, C, H, W), normalised, on its device, to one of the same shape."""

Made = TypeVar("Made", bound=Callable[..., Any])


def augmentation(name: str) -> Callable[[Made], Made]:
    """Registers an augmentation as ``augment=NAME``; its keyword arguments are ``augment.KEY``.

    It decorates a function from images (N, C, H, W) and options to images of the same shape, or a class whose instances
    are called with the images. They are normalised, on their device, and augmented by ``data.augment`` already; labels
    are mixed afterwards. Only training images pass through it. Random numbers come from torch's global generators,
    whose states a stopped run restores.

    Raises:
        ConvzooError: The name is invalid or taken.
    """
    return AUGMENTATIONS.register(name)


def check_augmentation(name: str, options: dict[str, Any]) -> None:
    """Checks an augmentation and its options.

    Raises:
        ConvzooError: It does not exist, or a value is not allowed.
    """
    if AUGMENTATIONS.choose(name, NONE) != NONE:
        AUGMENTATIONS.check(name, options)


def make_augmentation(name: str, options: dict[str, Any]) -> Augmentation | None:
    """Returns the augmentation; None for ``none``."""
    return None if name == NONE else AUGMENTATIONS[name].bound(**options)
