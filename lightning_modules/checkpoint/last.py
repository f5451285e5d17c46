"""Keeps the checkpoint from which a run that was stopped goes on, to the bit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from torchmetrics import Metric

from lightning_modules.checkpoint.resume import KEY, LAST, PREVIOUS
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.signals import Stopped, StopSignals
from lightning_modules.rng import random_states, set_random_states
from zoo.errors import ConvzooError
from zoo.text import typed

LOOK_S = 1.0
"""Ranks ask each other whether to save or to stop, for which they wait: every so often, not after every batch."""

PATIENCE_S = 8.0
"""How long a signal waits for a validation to end: schedulers kill after 30 seconds, a sweep after 20."""


States = dict[str, dict[str, torch.Tensor]]
"""Metric → state → value."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``every_s`` seconds, after a batch or an epoch, and when a signal stops the run.

    Beside what Lightning saves it holds the random states of all ranks and the metrics of the unfinished epoch, so that
    a run which goes on ends where an undisturbed one does. The one before it stays, as ``last-previous.ckpt``.

    Attributes:
        path: Where it is; the run removes it once its result is written.
        seconds: Time spent fitting, over all starts of the run.

    Args:
        folder: The run's.
        every_s: Seconds between two checkpoints.
        spec: The run's cell: a checkpoint of another one is refused.
        plan: The execution plan's name; the next start has the same.
        signals: Those that stop the run.
    """

    def __init__(self, folder: Path, every_s: float, spec: CellSpec, plan: str, signals: StopSignals) -> None:
        self.plan, self.spec = plan, spec
        self.path, self.every_s, self.identity, self.signals = folder / LAST, every_s, cell_id(spec), signals
        self._seconds_before = self._start = 0.0
        self._batches, self._look_after = 0, 1  # since the ranks asked each other, and until they ask again
        self._looked, self._stop = 0.0, 0
        self._random: list[dict[str, Any]] = []  # one a rank
        self._metrics: list[States] = []  # one a rank

    @property
    def seconds(self) -> float:
        return self._seconds_before + (time.perf_counter() - self._start if self._start else 0.0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = self._saved = self._looked = time.perf_counter()
        self._batches, self._look_after = 0, 1
        if trainer.world_size > 1:
            steps = trainer.strategy.all_gather(torch.tensor(trainer.global_step, device=trainer.strategy.root_device))
            if len(set(steps.tolist())) > 1:
                raise ConvzooError(
                    f"the processes of this run found different checkpoints in {typed(self.path.parent)} (steps "
                    f"{', '.join(map(str, steps.tolist()))}): do all machines see the same folder?"
                )
        for name, states in _states_of(trainer.global_rank, trainer.world_size, self._metrics).items():
            metric = pl_module.get_submodule(name)
            for state, value in states.items():
                setattr(metric, state, value.to(metric.device))
            metric._update_count = 1
        self._metrics = []
        if trainer.global_rank < len(self._random):
            set_random_states(self._random[trainer.global_rank], trainer.strategy.root_device)
        self._random = []
        self.signals.install()
        self.signals.wait = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The last batch belongs to the end of the epoch, gradients that are being accumulated are in no checkpoint, and
        # a validation that is due after this batch would be left out by a run that goes on from here.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._in_epoch(trainer) and stepped and not _validates_now(trainer):
            self._batches += 1
            if trainer.world_size == 1 or self._batches >= self._look_after:
                self._save_if_due(trainer)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        # There is no checkpoint of half a validation, and whoever sent the signal does not wait for ever.
        if self.signals.waited_s > PATIENCE_S:
            self.signals.look()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # The epoch is in the checkpoint, and not yet in the logger: the run is stopped after that.
        self._stop = self._saved_if_due(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._end_if_stopped()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_if_stopped()
        self.signals.look()

    def _end_if_stopped(self) -> None:
        stop, self._stop = self._stop, 0
        if stop:
            raise Stopped(stop)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.signals.wait = False

    @staticmethod
    def _in_epoch(trainer: Any) -> bool:
        return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch

    def _save_if_due(self, trainer: Any) -> None:
        self._stop = self._saved_if_due(trainer)
        self._end_if_stopped()

    def _saved_if_due(self, trainer: Any) -> int:
        """Saves where it is time to; the signal that stops all ranks, 0 for none."""
        due = time.perf_counter() - self._saved >= self.every_s
        stop = self.signals.pending or 0
        if trainer.world_size > 1:
            due, stop = self._ask_all(trainer, due, stop)
        if due or stop:
            self._save(trainer)
        return stop

    def _ask_all(self, trainer: Any, due: bool, stop: int) -> tuple[bool, int]:
        """All ranks save, or none: a signal does not reach them at the same moment."""
        seconds = (time.perf_counter() - self._looked) / max(1, self._batches)
        wishes = torch.tensor([float(due), float(stop), seconds], device=trainer.strategy.root_device)
        due, stop, slowest = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        # Every rank computes the same. Doubled at most: the first batches are slow, and the next ones may be again.
        self._look_after = max(1, min(2 * self._look_after, int(min(LOOK_S, self.every_s) / max(slowest, 1e-6))))
        self._batches, self._looked = 0, time.perf_counter()
        return bool(due), int(stop)

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.path, storage_options={"previous": self.path.with_name(PREVIOUS)})
        self._saved = time.perf_counter()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "id": self.identity,
            "config": self.spec.plain(),
            "plan": self.plan,
            "seconds": self.seconds,
            "random": _of_all_ranks(random_states(trainer.strategy.root_device)),
            "metrics": _of_all_ranks(_metric_states(pl_module)) if self._in_epoch(trainer) else [],
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(KEY)
        if saved and trainer.state.fn == "fit":
            self._seconds_before, self._random, metrics = saved["seconds"], saved["random"], saved["metrics"]
            # Before there was one a rank it was their sum.
            self._metrics = [metrics] if isinstance(metrics, dict) else metrics


def _validates_now(trainer: Any) -> bool:
    # By the clock, the ranks would come to different ends.
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return False
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _of_all_ranks(value: Any) -> list[Any]:
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _metric_states(module: Any) -> States:
    """What this rank's training metrics have seen of the unfinished epoch."""
    return {
        name: {k: getattr(metric, k).cpu().clone() for k, v in metric._defaults.items() if isinstance(v, torch.Tensor)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric.update_called
    }


def _states_of(rank: int, ranks: int, saved: list[States]) -> States:
    """A rank's own. As many ranks as before add up the same numbers in the same order, and come to the same bits; of
    another number the first one takes the sum, and the others start from nothing.
    """
    if len(saved) == ranks:
        return saved[rank]
    first = saved[0] if saved else {}
    return {n: {k: sum(states[n][k] for states in saved) * (rank == 0) for k in kept} for n, kept in first.items()}
