"""Timing a step: warm-up left out, one synchronisation a block, median and spread; and several steps in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from zoo.speeds.noise import is_noisy

BLOCKS = 9
FEWEST = 5
"""Blocks where a single call takes long."""

ROUNDS = 7
"""Blocks of each candidate that `compare` aims at."""

HOPELESS = 2.0
"""Whoever's best block takes this many times the best one's is out."""


@dataclass(frozen=True)
class Spread:
    """A measured quantity: the median of its samples and their interquartile range."""

    median: float
    iqr: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Median and interquartile range of at least one sample (with one sample the range is 0)."""
        if len(samples) < 2:
            return cls(samples[0], 0.0)
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, high - low)

    @property
    def noisy(self) -> bool:
        """Whether it spreads too much to be trusted (`zoo.speeds.noise.NOISY`)."""
        return is_noisy(self.median, self.iqr)

    def scaled(self, factor: float) -> Spread:
        """The same quantity in another unit."""
        return Spread(self.median * factor, self.iqr * factor)

    def metrics(self, name: str) -> dict[str, float]:
        """As ``result.json`` has it: the median under the name, ``_iqr`` and ``_noisy`` (0 or 1) beside it."""
        return {name: self.median, f"{name}_iqr": self.iqr, f"{name}_noisy": int(self.noisy)}


def synchronize(device: torch.device) -> None:
    """Waits for the device's queue; nothing to do on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(step: Callable[[], object], device: torch.device, seconds: float = 1.0) -> list[float]:
    """Seconds per call of ``step``, one sample a block.

    Warm-up is a first call, however long, and then goes on until a call takes no less than nine tenths of the best one
    so far twice in a row, or until a quarter of ``seconds`` has passed. A block holds as many
    calls as make `BLOCKS` blocks last about ``seconds``; where a single call is longer than that there are fewer
    blocks, but at least `FEWEST`.
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
    """Seconds per call of several steps, run in turn, so that a drift of the machine's speed hits all of them alike.

    Each is called once to warm up and twice more in turn; then blocks of calls take turns until ``seconds`` have
    passed. One that takes more than `HOPELESS` times the best one is dropped as soon as that shows, and where one only
    is left there is no more to compare. So at least three calls of each are made, however long they take.

    Args:
        candidates: Name → step. What a step raises is the caller's; warm-up calls are real ones.
        device: Where the steps run: waited for once a block.
        seconds: How long all of it may take, about.

    Returns:
        Every candidate, in the order given; one that was dropped with the few samples it has.
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
    """Seconds that some calls take together, with one synchronisation before and one after."""
    synchronize(device)
    start = perf_counter()
    for _ in range(calls):
        step()
    synchronize(device)
    return perf_counter() - start
