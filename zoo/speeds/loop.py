"""Measures the speed of a training loop including its data, and the share of time that it waits for data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from zoo.speeds.timing import BLOCKS, FEWEST, Spread, timed

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class LoopSpeed:
    """Speed of a plain loop: fetch, move to the device, augment, train.

    Attributes:
        images_per_s: Images/s of the whole loop.
        data_ms: Milliseconds to fetch, move and augment one batch, without training.
        data_wait: Share of the loop's time spent waiting for the next batch.
    """

    images_per_s: Spread
    data_ms: Spread
    data_wait: float


def loop_speed(
    step: Callable[[torch.Tensor, torch.Tensor], object],
    batches: Iterator[Batch],
    prepare: Callable[[Batch], Batch],
    device: torch.device,
    seconds: float = 1.0,
) -> LoopSpeed:
    """Measures a training loop in windows of several steps, with one synchronisation per window.

    Args:
        step: Trains on images and labels.
        batches: Infinite iterator of batches.
        prepare: Moves a batch to the device and augments it.
        device: Synchronised once per window.
        seconds: Approximate time of the loop after three warm-up steps; measuring the data alone takes half as long.
    """
    waited = images = 0.0

    def fetch() -> Batch:
        nonlocal waited
        asked = perf_counter()
        batch = next(batches)
        waited += perf_counter() - asked
        return batch

    def train() -> None:
        nonlocal images
        x, labels = prepare(fetch())
        step(x, labels)
        images += len(labels)

    for _ in range(2):
        train()
    once = timed(train, device)
    steps = max(1, round(seconds / BLOCKS / once))
    rates, waits = [], []
    for _ in range(min(BLOCKS, max(FEWEST, round(seconds / once)))):
        waited = images = 0.0
        took = timed(train, device, steps)
        rates.append(images / took)
        waits.append(waited / took)
    data: list[float] = []
    end = perf_counter() + seconds / 2
    while len(data) < FEWEST or (perf_counter() < end and len(data) < 100 * BLOCKS):
        data.append(1000 * timed(lambda: prepare(fetch()), device))
    return LoopSpeed(Spread.of(rates), Spread.of(data), Spread.of(waits).median)
