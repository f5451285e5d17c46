"""Detects out-of-memory errors on a GPU or CPU, and advises what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lightning_modules.config.schema import CellSpec
from zoo.errors import ConvzooError

WORDS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed"),
    *("could not create a primitive", "could not create a memory", "unable to find an engine"),
)
"""Parts of the text of out-of-memory errors that have no type of their own: from PyTorch's CPU allocator, C++, cuBLAS
and cuDNN; and from oneDNN and cuDNN's algorithm search, which give no reason but nearly always mean this."""


MEMORY_ERRORS = (RuntimeError, MemoryError)
"""Classes of all errors that `is_out_of_memory` can recognize."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)


@contextmanager
def plain_memory_errors(spec: CellSpec, devices: int = 1) -> Iterator[None]:
    """Turns out-of-memory errors into advice on what to reduce.

    Args:
        spec: The cell.
        devices: Number of devices that share a batch.

    Raises:
        ConvzooError: Replaces the allocator's error.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        raise ConvzooError(f"{advice(spec, devices)} PyTorch said: {first_line(error)}") from None


def advice(spec: CellSpec, devices: int = 1) -> str:
    """Returns a text that says what to type instead."""
    data, micro = spec.data, spec.hardware.micro_batch
    each = max(1, data.batch_size // devices)
    if micro == "auto":
        return (
            "out of memory, even with the smallest parts of a batch (hardware.micro_batch=auto). Type a smaller "
            "data.image_size, or choose a smaller model."
        )
    images = min(micro, each) if micro else each
    parts = "hardware.micro_batch=auto, which splits batches and keeps the recipe; or " if spec.task != "time" else ""
    return (
        f"out of memory with {images} images at a time. Type {parts}a smaller data.batch_size "
        f"(it was {data.batch_size}) or data.image_size."
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].partition(". GPU ")[0][:200]
