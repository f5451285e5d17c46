"""Time a training loop's batches: how much is training, and how much of that is waiting for data."""

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
"""Hooks that run while a batch is trained on; time that callbacks spend in them does not count as training."""

Mark = tuple[str, Any]
"""Name of the phase that begins, and its time: in seconds, or as an event in the device's queue."""


class Stopwatch:
    """Times the batches of a Trainer: fetch, move, forward, backward, optimizer step, and nothing else.

    Work between two batches (validation, checkpoints, loggers, any ``on_train_batch_start`` and ``…_end``) does not
    count, nor does work of callbacks in the middle of a step. On an accelerator the marks are events in its queue: the
    host does not wait, work that is still running while the host does something else counts in full, and the wait for
    data is the device's idle time.
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
        """Return the marks of the last trained batch, once; None if there is no new one."""
        done, self._done = self._done, None
        return done

    def seconds(self, batches: list[list[Mark]]) -> dict[str, float]:
        """Return the seconds that batches spent in `FETCH`, `TRAIN` and `OTHER`; waits until the device is done."""
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
            # Hooks may nest: mark only the outermost.
            if self._marks and self._depth == (1 if starts else 0):
                self._mark(OTHER if starts else TRAIN)
        elif action.endswith(".train_dataloader_next"):
            if not self._depth:
                if starts and not self._running:
                    # The batch fetched before was not trained on.
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
            event = torch.Event(self._device, enable_timing=True)
            event.record()
            self._marks.append((what, event))
        else:
            synchronize(self._device)
            self._marks.append((what, perf_counter()))


def _has_events(device: torch.device) -> bool:
    try:
        torch.Event(device, enable_timing=True).record()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _written(owner: Any, hook: str) -> bool:
    """Whether a hook is overridden, rather than Lightning's empty one (under either of the package's names)."""
    method = getattr(owner, hook)
    where = getattr(method, "__module__", None) or ""
    return callable(method) and not where.endswith((".callbacks.callback", ".core.hooks"))
