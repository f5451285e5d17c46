"""Estimate the training time of a cell by timing a few of its steps."""

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
"""Time spent on measuring training steps, in seconds, after one warm-up step."""

TIMING_S = 12.0
"""Duration of ``task=time``, in seconds, for a cell whose steps are no longer than one measurement block."""

SMALL = 8
"""Batch size of the first step. If even this batch is slow, the full batch is not timed."""


class Stopwatch:
    """Times training and evaluation, once per distinct network, image size, batch size and accelerator."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}
        # Every job pays this start-up: it starts Python and imports what this process has imported.
        self.start_s = time.process_time()

    def estimate(self, spec: CellSpec, resolved: Resolved, hardware: Hardware, train: int, val: int) -> float:
        """Return the estimated seconds for start-up, all epochs, validation and test.

        With ``task=time``, return the seconds for start-up and the measurements instead. The estimate assumes perfect
        data-parallel scaling and no waiting for data.

        Args:
            spec: The cell.
            resolved: Its resolved network and data.
            hardware: The devices it runs on.
            train: Number of training images.
            val: Number of validation images.
        """
        if spec.task == "time":
            return self.start_s + TIMING_S
        trainer, batch = spec.trainer, spec.data.batch_size
        batches, steps = count_steps(trainer, train // batch)
        per_image, per_evaluated = self._time(resolved, min(batch, train), hardware)
        # Count the test as one more validation.
        evaluations = (steps / batches + 1) * val
        images = steps * min(batch, train)
        return self.start_s + (images * per_image + evaluations * per_evaluated) / hardware.world_size

    def _time(self, resolved: Resolved, batch: int, hardware: Hardware) -> tuple[float, float]:
        """Return seconds per image of a training step and of an inference forward pass."""
        key = json.dumps(
            [resolved.network, resolved.image_size, batch, hardware.accelerator], sort_keys=True, default=str
        )
        if key not in self._known:
            device = hardware.device
            net = zoo.build(**{**resolved.network, "pretrained": False}).to(device, memory_format=torch.channels_last)
            step = TrainingStep(net)

            def batch_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
                images = torch.randn(n, resolved.in_chans, *resolved.image_size, device=device)
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
