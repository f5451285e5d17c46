"""Find the tensors and images in a batch of any structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

DEEPEST = 6
"""Maximum nesting depth of containers that is searched; an object may contain itself."""

CHANNELS = (1, 3, 4)
"""Channel counts of a single image; the number of features of a sequence is assumed to be a different one."""


def _parts(batch: Any) -> dict[Any, Any]:
    """Return a container's contents by key, index or attribute: of mappings, sequences, dataclasses, other objects."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (list, tuple)):
        return dict(enumerate(batch))
    if isinstance(batch, (torch.Tensor, torch.nn.Module, type)) or callable(batch):
        return {}
    # The instance's dictionary, or a pair of it and its slots.
    state = object.__getstate__(batch)
    return {k: v for part in (state if isinstance(state, tuple) else (state,)) for k, v in (part or {}).items()}


def tensors_of(batch: Any, deepest: int = DEEPEST) -> Iterator[torch.Tensor]:
    """Yield every tensor in a batch, at any depth of nesting down to ``deepest``."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif deepest:
        for part in _parts(batch).values():
            yield from tensors_of(part, deepest - 1)


Place = tuple[Any, ...]
"""Path of keys, indices and attributes to a part of a batch."""


def images_of(batch: Any, place: Place = ()) -> dict[Place, list[torch.Tensor]]:
    """Find the parts of a batch that hold images: (N, C, H, W), (N, H, W, C), (N, …, H, W) and lists of (C, H, W).

    Returns:
        Path → tensors: one tensor of many images, or many tensors of one image each.
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
    """Return the number of images in a part found by `images_of`."""
    return images[0].size(0) if images[0].ndim > 3 else len(images)
