"""What of a training loop's time is training, and what of that is waiting for data."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import Any

import torch

from lightning_modules.callbacks.actions import listen
from zoo.speeds.timing import synchronize

FETCH, TRAIN, OTHER = "fetch", "train", "other"

FOREIGN = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
"""Hooks that run while a batch is trained on. What a callback does in them is no training."""

Mark = tuple[str, Any]
"""What begins, and when: seconds, or an event in the device's queue."""


class Stopwatch:
    """Times the batches of a Trainer: fetch, move, forward, backward, optimizer step, and nothing else.

    What runs between two batches (validation, checkpoints, loggers, ``on_train_batch_start`` and ``…_end`` of anybody)
    does not count, nor does what callbacks do in the middle of a step. On an accelerator the marks are events in its
    queue: nobody waits, work that is still under way while the host does something else counts in full, and waiting for
    data is what the device waits.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._device = module.device
        self._events = self._device.type != "cpu" and _has_events(self._device)
        self._foreign = {
            f"[Callback]{callback.state_key}.{hook}"
            for callback in trainer.callbacks
            for hook in FOREIGN
            if _written(callback, hook)
        }
        if _written(module, FOREIGN[0]):
            self._foreign.add(f"[LightningModule]{type(module).__name__}.{FOREIGN[0]}")
        self._marks: list[Mark] = []
        self._running, self._depth = False, 0
        self._done: list[Mark] | None = None
        self.stop = listen(trainer, self._hear)

    def batch(self) -> list[Mark] | None:
        """The marks of the batch that was trained on last, once; None where there was none."""
        done, self._done = self._done, None
        return done

    def seconds(self, batches: list[list[Mark]]) -> dict[str, float]:
        """The time that `FETCH`, `TRAIN` and `OTHER` took in some batches; waits until the device has done them."""
        if self._events and batches:
            batches[-1][-1][1].synchronize()
        found = dict.fromkeys((FETCH, TRAIN, OTHER), 0.0)
        for marks in batches:
            for (what, begin), (_, end) in pairwise(marks):
                found[what] += begin.elapsed_time(end) / 1000 if self._events else end - begin
        return found

    def _hear(self, action: str, starts: bool) -> None:
        if action in self._foreign:
            self._depth += 1 if starts else -1
            # A hook may cause others.
            if self._marks and self._depth == (1 if starts else 0):
                self._mark(OTHER if starts else TRAIN)
        elif action.endswith(".train_dataloader_next"):
            if not self._depth:
                if starts and not self._running:
                    # What was fetched before was not trained on.
                    self._marks = []
                self._mark(FETCH if starts else TRAIN)
        elif action == "run_training_batch":
            if starts and not self._marks:
                self._mark(TRAIN)
            self._running = starts
            if not starts:
                self._mark("end")
                self._done, self._marks = self._marks, []

    def _mark(self, what: str) -> None:
        if self._events:
            now = torch.Event(self._device, enable_timing=True)
            now.record()
        else:
            synchronize(self._device)
            now = perf_counter()
        self._marks.append((what, now))


def _has_events(device: torch.device) -> bool:
    try:
        torch.Event(device, enable_timing=True).record()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _written(owner: Any, hook: str) -> bool:
    """Whether a hook is somebody's own, not the empty one of Lightning, by either of its names."""
    method = getattr(owner, hook)
    where = getattr(method, "__module__", None) or ""
    return callable(method) and not where.endswith((".callbacks.callback", ".core.hooks"))
