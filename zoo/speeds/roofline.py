"""The roofline (Williams et al. 2009): what this machine could do at most, and what a network could reach on it.

The peaks are measured, not looked up: matrix products and copies, on this device with the threads in use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import torch

from zoo.cache import recall, remember
from zoo.devices import device_name
from zoo.errors import choose
from zoo.speeds.timing import Spread, measure

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENOUGH_S = 0.005
"""A product that takes this long is large enough for the peak."""
LARGEST = 8192
RUNS = 3
COPIED_BYTES = 2**28
"""Of the array that is copied: more than caches hold."""

FORWARD_PASSES = 2
"""Times that the output of a layer is moved in inference: written once, read once by the next layer."""
TRAINING_PASSES = 5
"""In training: the same, read again for the weight's gradient, and its own gradient written and read."""
WEIGHT_PASSES = 10
"""Times that a weight is moved in a training step: read forward and backward, its gradient written and read, and AdamW
reads and writes the weight and two moments."""


@dataclass(frozen=True)
class Peaks:
    """What a device does at most.

    Attributes:
        macs_per_s: Multiply-adds of a large matrix product.
        bytes_per_s: Memory traffic of a copy: bytes read and bytes written.
        dtype: Of the product: ``fp32``, ``bf16`` or ``fp16``.
        noisy: Whether the machine was too restless to say.
    """

    macs_per_s: float
    bytes_per_s: float
    dtype: str
    noisy: bool = False


@dataclass(frozen=True)
class Bound:
    """What a network could reach at most, given its products and the bytes that it must move.

    Attributes:
        macs: Per image.
        bytes: Per image, estimated from below (see `bound`).
        peaks: Of the device.
    """

    macs: float
    bytes: float
    peaks: Peaks

    @property
    def images_per_s(self) -> float:
        """The roof: whichever of products and memory takes longer."""
        return 1 / max(self.macs / self.peaks.macs_per_s, self.bytes / self.peaks.bytes_per_s)

    @property
    def limit(self) -> str:
        """``compute`` or ``memory``: which of them it is."""
        return "compute" if self.intensity * self.peaks.bytes_per_s >= self.peaks.macs_per_s else "memory"

    @property
    def intensity(self) -> float:
        """MACs per byte."""
        return self.macs / self.bytes

    def share_of_peak(self, images_per_s: float) -> float:
        """The share of the peak of matrix products that a measured rate uses ("MFU")."""
        return images_per_s * self.macs / self.peaks.macs_per_s

    def share_of_bound(self, images_per_s: float) -> float:
        """The share of the roof that a measured rate reaches."""
        return images_per_s / self.images_per_s


class Counted(Protocol):
    """The counts that the roofline needs, such as those of `zoo.Cost`."""

    macs: int
    train_macs: int
    activations: int

    def weight_bytes(self, dtype: str) -> int: ...


def bound(cost: Counted, peaks: Peaks, batch_size: int, training: bool) -> Bound:
    """The roof of a network.

    Bytes are those that must move if everything but convolutions and linear layers is computed on the way: the output
    of each of these layers, in the dtype of the products, `FORWARD_PASSES` or `TRAINING_PASSES` times; and, once a
    batch, the weights in float32, once or `WEIGHT_PASSES` times. Real networks move more, so the roof is not too low
    for what leaves the caches; what stays in them moves less, and a small network can beat the memory side.

    Args:
        cost: Of one image, from `zoo.cost`.
        batch_size: Images that share one reading of the weights.
        training: A training step with AdamW, or a forward pass.
    """
    outputs = cost.activations * DTYPES[peaks.dtype].itemsize * (TRAINING_PASSES if training else FORWARD_PASSES)
    weights = cost.weight_bytes("fp32") * (WEIGHT_PASSES if training else 1)
    return Bound(cost.train_macs if training else cost.macs, outputs + weights / batch_size, peaks)


def measure_peaks(device: torch.device, dtype: str = "fp32", seconds: float = 1.0) -> Peaks:
    """Measures the peaks of a device, or reads what was measured on it before.

    A peak is the best there is, and what else a machine does only takes away from it: the best of the first `RUNS`
    measurements is kept, in the user's cache folder, by device, threads, dtype, precision of float32 products and
    version of torch. Where there is no such folder, or it cannot be written, nothing is kept.

    Args:
        device: Which one.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        seconds: How long both measurements take together, about.

    Raises:
        ConvzooError: Another dtype.
    """
    choose("dtype", dtype, DTYPES)
    key = _key(device, dtype)
    known = recall("peaks", "peaks")
    try:
        best_macs, best_bytes, runs = map(float, known[key])
    except (KeyError, TypeError, ValueError):
        best_macs = best_bytes = runs = 0.0
    if runs >= RUNS:
        return Peaks(best_macs, best_bytes, dtype)
    with torch.inference_mode():
        macs, bytes_ = _products(device, DTYPES[dtype], seconds / 2), _copies(device, seconds / 2)
    best = [max(best_macs, *macs), max(best_bytes, *bytes_)]
    remember("peaks", "peaks", {**known, key: [*best, runs + 1]})
    return Peaks(*best, dtype, Spread.of(macs).noisy or Spread.of(bytes_).noisy)


def _products(device: torch.device, dtype: torch.dtype, seconds: float) -> list[float]:
    """MACs per second, of the smallest square matrices that are large enough."""
    n = 512
    while True:
        a, b, out = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(3))
        took = min(measure(lambda: torch.mm(a, b, out=out), device, 0.0))  # noqa: B023 - called at once
        if took >= ENOUGH_S or n >= LARGEST:
            return [n**3 / s for s in measure(lambda: torch.mm(a, b, out=out), device, seconds)]  # noqa: B023
        n *= 2


def _copies(device: torch.device, seconds: float) -> list[float]:
    """Bytes per second, read and written."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return [2 * COPIED_BYTES / s for s in measure(lambda: target.copy_(source), device, seconds)]


def _key(device: torch.device, dtype: str) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} of {cores} threads" if device.type == "cpu" else "1 device"
    precision = torch.get_float32_matmul_precision()
    return " | ".join((device_name(device), threads, dtype, precision, f"torch {torch.__version__}"))
