"""About how long a cell takes to train, from a few steps of it."""

from __future__ import annotations

import json
import time

import torch

import zoo
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.devices import Hardware
from lightning_modules.resolve import Resolved, count_steps
from zoo.speeds.network import TrainingStep
from zoo.speeds.timing import Spread, measure, timed

SECONDS = 1.0
"""Steps are timed for about this long, after a first one."""

TIMING_S = 12.0
"""What ``task=time`` takes for a cell whose steps are not longer than the blocks they are measured in."""

SMALL = 8
"""Images of the first step: where even these take long, no larger batch is tried."""


class Stopwatch:
    """Times training and evaluation of networks, each once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}
        # Every job starts Python, and imports what this process imports.
        self.start_s = time.process_time()

    def estimate(self, spec: CellSpec, resolved: Resolved, hardware: Hardware, train: int, val: int) -> float:
        """Seconds for all epochs, validation, test and start-up; with ``task=time`` for the measurements.

        ``train`` and ``val`` are numbers of images. Data-parallel processes are taken to share the work
        without loss, and data to be there in time.
        """
        if spec.task == "time":
            return self.start_s + TIMING_S
        trainer, batch = spec.trainer, spec.data.batch_size
        batches, steps = count_steps(trainer, train // batch)
        per_image, per_evaluated = self._time(resolved, min(batch, train), hardware)
        # The test counts as one more validation.
        evaluations = (steps / batches + 1) * val
        images = steps * min(batch, train)
        return self.start_s + (images * per_image + evaluations * per_evaluated) / hardware.world_size

    def _time(self, resolved: Resolved, batch: int, hardware: Hardware) -> tuple[float, float]:
        """Seconds an image: of a training step, and of a forward pass."""
        key = json.dumps(
            [resolved.network, resolved.image_size, batch, hardware.accelerator], sort_keys=True, default=str
        )
        if key not in self._known:
            device = hardware.device
            net = zoo.build(**{**resolved.network, "pretrained": False}).to(device, memory_format=torch.channels_last)
            step = TrainingStep(net)

            def batch_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
                images = torch.randn(n, resolved.in_chans, resolved.image_size, resolved.image_size, device=device)
                images = images.contiguous(memory_format=torch.channels_last)
                return images, torch.zeros(n, dtype=torch.long, device=device)

            small = batch_of(min(batch, SMALL))
            step(*small)
            best = timed(lambda: step(*small), device) / len(small[0])
            if best * batch < SECONDS:
                full = batch_of(batch)
                best = Spread.of(measure(lambda: step(*full), device, SECONDS)).median / batch
            net.eval()
            with torch.inference_mode():
                net(small[0])
                self._known[key] = best, timed(lambda: net(small[0]), device) / len(small[0])
        return self._known[key]
