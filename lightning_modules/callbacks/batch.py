"""What a batch of anybody's holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

DEEPEST = 6
"""Containers in containers that are looked into; an object may hold itself."""

CHANNELS = (1, 3, 4)
"""Of an image that comes by itself; a sequence has other numbers of features, or so it is hoped."""


def _parts(batch: Any) -> dict[Any, Any]:
    """What a container holds, by key, index or attribute: dictionaries, sequences, dataclasses and any other object."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (list, tuple)):
        return dict(enumerate(batch))
    if isinstance(batch, (torch.Tensor, torch.nn.Module, type)) or callable(batch):
        return {}
    slots = [name for kind in type(batch).__mro__ for name in _slots(kind) if hasattr(batch, name)]
    return {name: getattr(batch, name) for name in slots} | getattr(batch, "__dict__", {})


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def tensors_of(batch: Any, deepest: int = DEEPEST) -> Iterator[torch.Tensor]:
    """Every tensor in a batch, however it is nested."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif deepest:
        for part in _parts(batch).values():
            yield from tensors_of(part, deepest - 1)


Place = tuple[Any, ...]
"""Keys, indices and attributes that lead to a part of a batch."""


def images_of(batch: Any, place: Place = ()) -> dict[Place, list[torch.Tensor]]:
    """The parts of a batch that hold images: tensors (N, C, H, W), (N, H, W, C), (N, …, H, W) and lists of (C, H, W).

    Returns:
        Where → the tensors: one of many images, or many of one image.
    """
    if isinstance(batch, torch.Tensor):
        return {place: [batch]} if batch.ndim > 3 else {}
    parts = {} if len(place) == DEEPEST else _parts(batch)
    if isinstance(batch, (list, tuple)) and parts and all(_is_image(part) for part in batch):
        return {place: list(batch)}
    return {k: v for key, part in parts.items() for k, v in images_of(part, (*place, key)).items()}


def _is_image(part: Any) -> bool:
    if not isinstance(part, torch.Tensor) or part.ndim != 3:
        return False
    return part.shape[0] in CHANNELS or (part.dtype == torch.uint8 and part.shape[-1] in CHANNELS)


def count_of(images: list[torch.Tensor]) -> int:
    """How many images a part found by `images_of` holds."""
    return images[0].size(0) if images[0].ndim > 3 else len(images)
