"""Keeps the checkpoint from which a stopped run resumes, bit for bit: ``last.ckpt``."""

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
"""Interval between the synchronizations in which ranks agree to save or stop: each one blocks, so not every batch."""

PATIENCE_S = 8.0
"""How long a signal waits for validation to finish: schedulers kill after 30 seconds, a sweep after 20."""


States = dict[str, dict[str, torch.Tensor]]
"""Metric name → state name → value."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``every_s`` seconds, after a batch or an epoch, and when a signal stops the run.

    Besides what Lightning saves, it holds the random states of all ranks and the metrics of the unfinished epoch, so
    that a resumed run gives the same result as an uninterrupted one. The previous checkpoint is kept as
    ``last-previous.ckpt``.

    Attributes:
        path: The file's path; the run removes it once its result is written.
        seconds: Time spent fitting, over all starts of the run.

    Args:
        folder: The run's folder.
        every_s: Seconds between two checkpoints.
        spec: The run's cell; a resume from a checkpoint of another cell is refused.
        plan: Name of the execution plan; a resumed run uses the same one.
        signals: The signals that stop the run.
    """

    def __init__(self, folder: Path, every_s: float, spec: CellSpec, plan: str, signals: StopSignals) -> None:
        self.plan, self.spec = plan, spec
        self.path, self.every_s, self.identity, self.signals = folder / LAST, every_s, cell_id(spec), signals
        self._seconds_before = self._start = 0.0
        self._batches, self._look_after = 0, 1  # batches since the ranks last synchronized, and until they do again
        self._looked, self._stop = 0.0, 0
        self._random: list[dict[str, Any]] = []  # one per rank
        self._metrics: list[States] = []  # one per rank

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
        # The last batch is saved with the end of the epoch; accumulated gradients are in no checkpoint; and a run that
        # resumes here would skip a validation that is due after this batch.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._in_epoch(trainer) and stepped and not _validates_now(trainer):
            self._batches += 1
            if trainer.world_size == 1 or self._batches >= self._look_after:
                self._save_if_due(trainer)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        # Validation cannot be checkpointed half-way, and the sender of the signal does not wait for ever.
        if self.signals.waited_s > PATIENCE_S:
            self.signals.look()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # The epoch is in the checkpoint but not yet in the logger: stop only after it is logged.
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
        """Saves if a checkpoint is due or a signal is pending; returns the signal that stops all ranks, or 0."""
        due = time.perf_counter() - self._saved >= self.every_s
        stop = self.signals.pending or 0
        if trainer.world_size > 1:
            due, stop = self._ask_all(trainer, due, stop)
        if due or stop:
            self._save(trainer)
        return stop

    def _ask_all(self, trainer: Any, due: bool, stop: int) -> tuple[bool, int]:
        """Lets the ranks agree on saving and stopping, since a signal does not reach them all at the same moment."""
        seconds = (time.perf_counter() - self._looked) / max(1, self._batches)
        wishes = torch.tensor([float(due), float(stop), seconds], device=trainer.strategy.root_device)
        due, stop, slowest = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        # Equal on every rank. At most doubled, since the first batches are slow and later ones may be slow again.
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
            # Older checkpoints hold the sum over ranks.
            self._metrics = [metrics] if isinstance(metrics, dict) else metrics


def _validates_now(trainer: Any) -> bool:
    # With a validation interval in wall-clock time, the ranks could disagree.
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
    """Returns the states of this rank's training metrics in the unfinished epoch."""
    return {
        name: {k: getattr(metric, k).cpu().clone() for k, v in metric._defaults.items() if isinstance(v, torch.Tensor)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric.update_called
    }


def _states_of(rank: int, ranks: int, saved: list[States]) -> States:
    """Returns the metric states of a rank.

    With as many ranks as before, each gets its own states, so that the final sum is identical to the bit. With another
    number of ranks, rank 0 gets the sum over all saved states, and the others start from zero.
    """
    if len(saved) == ranks:
        return saved[rank]
    first = saved[0] if saved else {}
    return {n: {k: sum(states[n][k] for states in saved) * (rank == 0) for k in kept} for n, kept in first.items()}
