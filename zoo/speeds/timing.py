"""Times a step (after warm-up, in synchronised blocks, as median and spread), or compares several steps in turn."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from zoo.errors import ConvzooError
from zoo.speeds.noise import is_noisy

BLOCKS = 9
FEWEST = 5
"""Minimum number of blocks, used if a single call takes long."""

ROUNDS = 7
"""Target number of blocks per candidate in `compare`."""

HOPELESS = 2.0
"""Drop candidates slower than this multiple of the fastest."""

LIMIT = "CONVZOO_MEASURE_S"
"""The environment variable that limits the seconds of each measurement in a run, for dry runs and tests."""


@dataclass(frozen=True)
class Spread:
    """A measured quantity: the median of its samples and their interquartile range."""

    median: float
    iqr: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Computes median and interquartile range of at least one sample (of one sample, the range is 0)."""
        if len(samples) < 2:
            return cls(samples[0], 0.0)
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, high - low)

    @property
    def noisy(self) -> bool:
        """Whether the spread is too large to trust the median (`zoo.speeds.noise.NOISY`)."""
        return is_noisy(self.median, self.iqr)

    def scaled(self, factor: float) -> Spread:
        """Returns the same quantity in another unit."""
        return Spread(self.median * factor, self.iqr * factor)

    def metrics(self, name: str) -> dict[str, float]:
        """Returns the entries of ``result.json``: the median under ``name``, with ``_iqr`` and ``_noisy`` (0 or 1)."""
        return {name: self.median, f"{name}_iqr": self.iqr, f"{name}_noisy": int(self.noisy)}


def synchronize(device: torch.device) -> None:
    """Waits for the device's queue; does nothing on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def limited(seconds: float) -> float:
    """Returns ``seconds``, or what `LIMIT` says if that is less.

    Raises:
        ConvzooError: `LIMIT` is not a number.
    """
    try:
        return min(seconds, float(os.environ.get(LIMIT, seconds)))
    except ValueError:
        raise ConvzooError(f"{LIMIT}={os.environ[LIMIT]} is not a number of seconds.") from None


def measure(step: Callable[[], object], device: torch.device, seconds: float = 1.0) -> list[float]:
    """Measures the seconds per call of ``step``, one sample per block.

    Warm-up is one call, however long, and then more calls until two in a row take at least 0.9 times the best one so
    far, or a quarter of ``seconds`` has passed. A block has as many calls as make `BLOCKS` blocks last about
    ``seconds``; if single calls are too long for that, there are fewer blocks, but at least `FEWEST`.
    """
    timed(step, device)
    end = perf_counter() + seconds / 4
    best, steady = timed(step, device), 0
    while steady < 2 and perf_counter() < end:
        took = timed(step, device)
        steady = steady + 1 if took > 0.9 * best else 0
        best = min(best, took)
    calls = max(1, round(seconds / BLOCKS / best))
    blocks = min(BLOCKS, max(FEWEST, round(seconds / best)))
    return [timed(step, device, calls) / calls for _ in range(blocks)]


def compare(
    candidates: Mapping[str, Callable[[], object]], device: torch.device, seconds: float = 2.0
) -> dict[str, Spread]:
    """Measures the seconds per call of several steps in turn, so that drift of the machine's speed affects all alike.

    Each step is called once to warm up and twice more in turn; then blocks of calls take turns until ``seconds`` have
    passed. A step slower than `HOPELESS` times the fastest is dropped as soon as that shows, and the comparison ends
    when one is left. So every step is called at least three times, however long that takes.

    Args:
        candidates: Name → step. Exceptions of a step propagate; warm-up calls run the real step.
        device: The device that the steps run on; synchronised once per block.
        seconds: Approximate limit for the whole comparison.

    Returns:
        All candidates, in the given order; a dropped one has only its few samples.
    """
    end = perf_counter() + seconds
    for step in candidates.values():
        timed(step, device)
    single = {name: [timed(step, device)] for name, step in candidates.items()}
    for name, step in candidates.items():
        single[name].append(timed(step, device))
    running = _hopeful(list(candidates), single)
    blocks: dict[str, list[float]] = {name: [] for name in candidates}
    block = max(0.0, end - perf_counter()) / ROUNDS / max(1, len(running))
    while len(running) > 1:
        start = perf_counter()
        for name in running:
            calls = max(1, round(block / min(single[name] + blocks[name])))
            blocks[name].append(timed(candidates[name], device, calls) / calls)
        running = _hopeful(running, {name: single[name] + blocks[name] for name in running})
        now = perf_counter()
        if now + (now - start) / 2 > end:
            break
    return {name: Spread.of(blocks[name] or single[name]) for name in candidates}


def _hopeful(names: Sequence[str], samples: Mapping[str, Sequence[float]]) -> list[str]:
    best = {name: min(samples[name]) for name in names}
    limit = HOPELESS * min(best.values(), default=0.0)
    return [name for name in names if best[name] <= limit]


def timed(step: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Returns the total seconds of some calls, with one synchronisation before and one after."""
    synchronize(device)
    start = perf_counter()
    for _ in range(calls):
        step()
    synchronize(device)
    return perf_counter() - start
