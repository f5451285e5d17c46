"""About how long a cell takes to train, from a few steps of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lightning_modules.classifier import Classifier
from lightning_modules.hardware import Hardware
from lightning_modules.spec import Spec
from zoo.timing import measure, synchronize

SECONDS = 1.0
"""Steps are timed for about this long, after a first one."""

SMALL = 8
"""Images of the first step: where even these take long, no larger batch is tried."""


class Stopwatch:
    """Times training and evaluation of networks, each once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}
        # Every job starts Python, and imports what this process imports.
        self.start_s = time.process_time()

    def estimate(self, config: dict[str, Any], spec: Spec, hardware: Hardware, train: int, val: int) -> float:
        """Seconds for all epochs, validation, test and start-up.

        ``train`` and ``val`` are numbers of images. Data-parallel processes are taken to share the work
        without loss, and data to be there in time.
        """
        trainer, batch = config["trainer"], config["data"]["batch_size"]
        batches = max(1, _limited(train // batch, trainer["limit_train_batches"]))
        steps = batches * trainer["max_epochs"] if trainer["max_epochs"] > 0 else trainer["max_steps"]
        if trainer["max_steps"] > 0:
            steps = min(steps, trainer["max_steps"])
        per_image, per_evaluated = self._time(spec, min(batch, train), hardware)
        # The test counts as one more validation.
        evaluations = (steps / batches + 1) * val
        images = steps * min(batch, train)
        return self.start_s + (images * per_image + evaluations * per_evaluated) / hardware.world_size

    def _time(self, spec: Spec, batch: int, hardware: Hardware) -> tuple[float, float]:
        """Seconds an image: of a training step, and of a forward pass."""
        key = json.dumps([spec.network, spec.image_size, batch, hardware.accelerator], sort_keys=True, default=str)
        if key not in self._known:
            device = torch.device("cuda" if hardware.accelerator in ("gpu", "cuda") else "cpu")
            network = {**spec.network, "pretrained": False}
            module = Classifier(network, {"label_smoothing": 0.0}).to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
            shape = (spec.in_chans, spec.image_size, spec.image_size)

            def step(n: int) -> None:
                images = torch.randn(n, *shape, device=device).contiguous(memory_format=torch.channels_last)
                labels = torch.zeros(n, dtype=torch.long, device=device)
                torch.nn.functional.cross_entropy(module(images), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

            small = min(batch, SMALL)
            step(small)
            best = _timed(lambda: step(small), device) / small
            if best * batch < SECONDS:
                best = statistics.median(measure(lambda: step(batch), device, SECONDS)) / batch
            module.eval()
            images = torch.randn(small, *shape, device=device)
            with torch.inference_mode():
                module(images)
                self._known[key] = best, _timed(lambda: module(images), device) / small
        return self._known[key]


def _timed(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def _limited(batches: int, limit: int | float | None) -> int:
    if limit is None:
        return batches
    return min(batches, limit) if type(limit) is int else int(batches * limit)
