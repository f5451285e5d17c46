"""Keeps the checkpoint from which a stopped run resumes, bit for bit: ``last.ckpt``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.checkpoint.resume import KEY, LAST, PREVIOUS
from lightning_modules.checkpoint.state import of_all_ranks, of_rank, restore_metrics, training_metrics
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.signals import Stopped, StopSignals
from lightning_modules.rng import random_states, set_random_states
from zoo.errors import ConvzooError
from zoo.text import typed

VOTE_S = 1.0
"""Interval between the votes in which ranks agree to save or stop: each one blocks, so not every batch."""

PATIENCE_S = 8.0
"""How long a signal waits for validation to finish: schedulers kill after 30 seconds, a sweep after 20."""


class _Vote:
    """Lets the ranks agree on saving and stopping, since a signal does not reach them all at the same moment."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._batches, self._next = 0, 1  # batches since the last vote, and until the next one; equal on every rank
        self._last = time.perf_counter()

    def due(self) -> bool:
        """Counts a batch, and returns whether the ranks vote after it."""
        self._batches += 1
        return self._batches >= self._next

    def hold(self, trainer: Any, save: bool, stop: int) -> tuple[bool, int]:
        """Returns whether any rank wants to save, and the signal that any rank has received, or 0."""
        seconds = (time.perf_counter() - self._last) / max(1, self._batches)
        wishes = torch.tensor([float(save), float(stop), seconds], device=trainer.strategy.root_device)
        save, stop, slowest = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        # At most doubled, since the first batches are slow and later ones may be slow again.
        self._next = max(1, min(2 * self._next, int(self._interval_s / max(slowest, 1e-6))))
        self._batches, self._last = 0, time.perf_counter()
        return bool(save), int(stop)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``checkpoint.every_s`` seconds, after a batch or an epoch, and when a signal stops it.

    Besides what Lightning saves, it holds the random states of all ranks and the metrics of the unfinished epoch, so
    that a resumed run gives the same result as an uninterrupted one. The previous checkpoint is kept as
    ``last-previous.ckpt``.

    Attributes:
        path: The file's path; the run removes it once its result is written.
        seconds: Time spent fitting, over all starts of the run.

    Args:
        folder: The run's folder.
        spec: The run's cell; a resume from a checkpoint of another cell is refused.
        plan: Name of the execution plan; a resumed run uses the same one.
        signals: The signals that stop the run.
    """

    def __init__(self, folder: Path, spec: CellSpec, plan: str, signals: StopSignals) -> None:
        self.path, self.spec, self.plan, self.signals = folder / LAST, spec, plan, signals
        self._loaded: dict[str, Any] = {}
        self._start = self._saved = 0.0
        self._stop = 0  # the signal that stops all ranks, once a checkpoint is written for it

    @property
    def seconds(self) -> float:
        return self._loaded.get("seconds", 0.0) + (time.perf_counter() - self._start if self._start else 0.0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = self._saved = time.perf_counter()
        self._vote = _Vote(min(VOTE_S, self.spec.checkpoint.every_s))
        rank, world_size, device = trainer.global_rank, trainer.world_size, trainer.strategy.root_device
        if world_size > 1:
            steps = trainer.strategy.all_gather(torch.tensor(trainer.global_step, device=device)).tolist()
            if len(set(steps)) > 1:
                raise ConvzooError(
                    f"the processes of this run found different checkpoints in {typed(self.path.parent)} (steps "
                    f"{', '.join(map(str, steps))}). All machines must see the same folder."
                )
        restore_metrics(pl_module, of_rank(rank, world_size, self._loaded.pop("metrics", [])))
        random = self._loaded.pop("random", [])
        if rank < len(random):
            set_random_states(random[rank], device)
        self.signals.install()
        self.signals.wait = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The last batch is saved with the end of the epoch; accumulated gradients are in no checkpoint; and a run that
        # resumes here would skip a validation that is due after this batch.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        possible = _in_epoch(trainer) and stepped and not _validates_now(trainer)
        if possible and (trainer.world_size == 1 or self._vote.due()):
            self._save_if_due(trainer)
            self._end_if_stopped()

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        # Validation cannot be checkpointed half-way, and the sender of the signal does not wait for ever.
        if self.signals.waited_s > PATIENCE_S:
            self.signals.look()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # The epoch is in the checkpoint but not yet in the logger: stop only after it is logged.
        self._save_if_due(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._end_if_stopped()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_if_stopped()
        self.signals.look()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.signals.wait = False

    def _end_if_stopped(self) -> None:
        if self._stop:
            raise Stopped(self._stop)

    def _save_if_due(self, trainer: Any) -> None:
        due = time.perf_counter() - self._saved >= self.spec.checkpoint.every_s
        self._stop = self.signals.pending or 0
        if trainer.world_size > 1:
            due, self._stop = self._vote.hold(trainer, due, self._stop)
        if due or self._stop:
            trainer.save_checkpoint(self.path, storage_options={"previous": self.path.with_name(PREVIOUS)})
            self._saved = time.perf_counter()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "id": cell_id(self.spec),
            "config": self.spec.plain(),
            "plan": self.plan,
            "seconds": self.seconds,
            "random": of_all_ranks(random_states(trainer.strategy.root_device)),
            "metrics": of_all_ranks(training_metrics(pl_module)) if _in_epoch(trainer) else [],
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self._loaded = dict(checkpoint.get(KEY, {}))


def _in_epoch(trainer: Any) -> bool:
    return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def _validates_now(trainer: Any) -> bool:
    # With a validation interval in wall-clock time, the ranks could disagree.
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return False
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
