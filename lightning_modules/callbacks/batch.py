"""What a batch of anybody's holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def _parts(batch: Any) -> list[Any]:
    return list(batch.values()) if isinstance(batch, dict) else list(batch) if isinstance(batch, (list, tuple)) else []


def tensors_of(batch: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a batch, however it is nested."""
    if isinstance(batch, torch.Tensor):
        yield batch
    for part in _parts(batch):
        yield from tensors_of(part)


def images_of(batch: Any) -> torch.Tensor | None:
    """The images (N, C, H, W) of a batch: its first tensor of four dimensions."""
    return next((t for t in tensors_of(batch) if t.ndim == 4), None)


def size_of(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor; of a CombinedLoader's, the sum over its parts."""
    if type(batch) in (list, tuple) and batch and isinstance(batch[0], torch.Tensor) and batch[0].ndim:
        return batch[0].shape[0]  # what nearly all batches are, looked at each step
    parts = _parts(batch)
    if parts and all(isinstance(part, (dict, list, tuple)) for part in parts):
        return sum(size_of(part) for part in parts)
    first = next((t for t in tensors_of(batch) if t.ndim), None)
    return 0 if first is None else len(first)
