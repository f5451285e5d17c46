"""Roofline model (Williams et al. 2009): peak rates of a device, and the upper bound for a network on it.

The peaks are measured, not looked up: matrix products and copies, on this device with the current number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from zoo.cache import recall, remember
from zoo.devices import cores, device_name
from zoo.errors import choose
from zoo.speeds.timing import Spread, measure

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENOUGH_S = 0.005
"""Seconds. A matrix product that takes this long is large enough to reach the peak."""
LARGEST = 8192
RUNS = 3
COPIED_BYTES = 2**28
"""Size of the array to copy: larger than any cache."""

FORWARD_PASSES = 2
"""Memory passes over a layer's output in inference: written once, read once by the next layer."""
TRAINING_PASSES = 5
"""In training: also read for the weight's gradient, and its own gradient is written and read."""
WEIGHT_PASSES = 10
"""Memory passes over a weight in a training step: read in forward and backward, its gradient written and read, and
AdamW reads and writes the weight and two moments."""


@dataclass(frozen=True)
class Peaks:
    """Peak rates of a device.

    Attributes:
        macs_per_s: Multiply-adds per second of a large matrix product.
        bytes_per_s: Memory traffic of a copy: bytes read plus bytes written.
        dtype: Dtype of the product: ``fp32``, ``bf16`` or ``fp16``.
        noisy: True if the measurements were too noisy.
    """

    macs_per_s: float
    bytes_per_s: float
    dtype: str
    noisy: bool = False


@dataclass(frozen=True)
class Bound:
    """Upper bound on a network's speed, from its MACs and its memory traffic.

    Attributes:
        macs: MACs per image.
        bytes: Bytes moved per image, a lower estimate (see `bound`).
        peaks: Peak rates of the device.
    """

    macs: float
    bytes: float
    peaks: Peaks

    @property
    def images_per_s(self) -> float:
        """The roof: the rate of products or of memory traffic, whichever is lower."""
        return 1 / max(self.macs / self.peaks.macs_per_s, self.bytes / self.peaks.bytes_per_s)

    @property
    def limit(self) -> str:
        """``compute`` or ``memory``: the one that limits the network."""
        return "compute" if self.intensity * self.peaks.bytes_per_s >= self.peaks.macs_per_s else "memory"

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: MACs per byte."""
        return self.macs / self.bytes

    def share_of_peak(self, images_per_s: float) -> float:
        """Returns the share of the peak in matrix products that a measured rate reaches ("MFU")."""
        return images_per_s * self.macs / self.peaks.macs_per_s

    def share_of_bound(self, images_per_s: float) -> float:
        """Returns the share of the roof that a measured rate reaches."""
        return images_per_s / self.images_per_s


class Counted(Protocol):
    """Counts that the roofline needs, such as a `zoo.Cost`."""

    macs: int
    train_macs: int
    activations: int

    def weight_bytes(self, dtype: str) -> int: ...


def bound(cost: Counted, peaks: Peaks, batch_size: int, training: bool) -> Bound:
    """Computes the roof of a network.

    The memory traffic assumes that everything but convolutions and linear layers is fused: the output of each of these
    layers moves `FORWARD_PASSES` or `TRAINING_PASSES` times, in the dtype of the products; the weights move in float32,
    per batch, once or `WEIGHT_PASSES` times. Real networks move more, so the roof is not too low for data that leaves
    the caches. Data that stays in them moves less, so a small network can exceed the memory roof.

    Args:
        cost: Cost of one image, from `zoo.cost`.
        peaks: Peak rates of the device.
        batch_size: Images that share one pass over the weights.
        training: A training step with AdamW; otherwise a forward pass.
    """
    outputs = cost.activations * DTYPES[peaks.dtype].itemsize * (TRAINING_PASSES if training else FORWARD_PASSES)
    weights = cost.weight_bytes("fp32") * (WEIGHT_PASSES if training else 1)
    return Bound(cost.train_macs if training else cost.macs, outputs + weights / batch_size, peaks)


def measure_peaks(device: torch.device, dtype: str = "fp32", seconds: float = 1.0) -> Peaks:
    """Measures the peaks of a device, or returns those of earlier measurements.

    Other load on a machine can only lower a measured peak, so the best of the first `RUNS` measurements is cached in
    the user's cache folder, by device, threads, dtype, precision of float32 products and version of torch. Nothing is
    cached if that folder does not exist or is not writable.

    Args:
        device: The device to measure.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        seconds: Approximate time of both measurements together.

    Raises:
        ConvzooError: Any other dtype.
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
    """Returns samples of MACs per second, for the smallest square matrices that are large enough."""
    n = 512
    while True:
        a, b, out = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(3))
        took = min(measure(lambda: torch.mm(a, b, out=out), device, 0.0))  # noqa: B023 - called at once
        if took >= ENOUGH_S or n >= LARGEST:
            return [n**3 / s for s in measure(lambda: torch.mm(a, b, out=out), device, seconds)]  # noqa: B023
        n *= 2


def _copies(device: torch.device, seconds: float) -> list[float]:
    """Returns samples of bytes per second, read plus written."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return [2 * COPIED_BYTES / s for s in measure(lambda: target.copy_(source), device, seconds)]


def _key(device: torch.device, dtype: str) -> str:
    threads = f"{torch.get_num_threads()} of {cores()} threads" if device.type == "cpu" else "1 device"
    precision = torch.get_float32_matmul_precision()
    return " | ".join((device_name(device), threads, dtype, precision, f"torch {torch.__version__}"))
