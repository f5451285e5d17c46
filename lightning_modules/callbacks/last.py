"""Keeps the checkpoint from which a run that was stopped goes on, to the bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torchmetrics import Metric

from lightning_modules.identity import cell_id, differences
from lightning_modules.signals import Stopped, StopSignals
from zoo.errors import ConvzooError

NAME = "last.ckpt"

LOOK_S = 1.0
"""Ranks ask each other whether to save or to stop, for which they wait: every so often, not after every batch."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every ``every_s`` seconds, after a batch or an epoch, and when a signal stops the run.

    Beside what Lightning saves it holds the random states and the metrics of the unfinished epoch, so that a run which
    goes on ends where an undisturbed one does.

    Attributes:
        path: Where it is; the run removes it once its result is written.
        seconds: Time spent fitting, over all starts of the run.

    Args:
        folder: The run's.
        every_s: Seconds between two checkpoints.
        config: The run's, resolved: a checkpoint of another one is refused.
        plan: The execution plan's name; the next start has the same.
        signals: Those that stop the run.
    """

    def __init__(self, folder: Path, every_s: float, config: dict[str, Any], plan: str, signals: StopSignals) -> None:
        self.plan, self.config = plan, config
        self.path, self.every_s, self.identity, self.signals = folder / NAME, every_s, cell_id(config), signals
        self._seconds_before = self._start = 0.0
        self._batches, self._look_after = 0, 1  # since the ranks asked each other, and until they ask again
        self._looked = 0.0
        self._random: dict[str, Any] | None = None
        self._metrics: dict[str, dict[str, torch.Tensor]] = {}

    @property
    def seconds(self) -> float:
        return self._seconds_before + (time.perf_counter() - self._start if self._start else 0.0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = self._saved = self._looked = time.perf_counter()
        self._batches, self._look_after = 0, 1
        for name, states in self._metrics.items():
            metric = pl_module.get_submodule(name)
            for state, value in states.items():
                # The sum over all ranks was saved: one rank takes it, the others start from nothing.
                setattr(metric, state, value.to(metric.device) * trainer.is_global_zero)
            metric._update_count = 1
        self._metrics = {}
        if self._random is not None:
            _set_random_states(self._random)
            self._random = None
        self.signals.install()
        self.signals.wait = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The last batch belongs to the end of the epoch, and gradients that are being accumulated are in no checkpoint.
        if self._in_epoch(trainer) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._batches += 1
            if trainer.world_size == 1 or self._batches >= self._look_after:
                self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.signals.wait = False
        if self.signals.pending:
            raise Stopped(self.signals.pending)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.signals.wait = False

    @staticmethod
    def _in_epoch(trainer: Any) -> bool:
        return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch

    def _save_if_due(self, trainer: Any) -> None:
        due = time.perf_counter() - self._saved >= self.every_s
        stop = self.signals.pending or 0
        if trainer.world_size > 1:
            due, stop = self._ask_all(trainer, due, stop)
        if due or stop:
            self._save(trainer)
        if stop:
            raise Stopped(stop)

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
        temporary = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.path)
        self._saved = time.perf_counter()

    def found(self) -> Path | None:
        """The checkpoint to go on from; None for none.

        Raises:
            ConvzooError: It is of a run with another configuration.
        """
        saved = _saved(self.path, tell=True)
        if not saved:
            return None
        _check_same(self.path, saved, self.config)
        return self.path

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["convzoo"] = {
            "id": self.identity,
            "config": self.config,
            "plan": self.plan,
            "seconds": self.seconds,
            "random": _random_states(),
            "metrics": _metric_states(trainer, pl_module) if self._in_epoch(trainer) else {},
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("convzoo")
        if saved and trainer.state.fn == "fit":
            self._seconds_before, self._random, self._metrics = saved["seconds"], saved["random"], saved["metrics"]


def check_last(folder: Path, config: dict[str, Any]) -> None:
    """Checks before anything starts that a folder's checkpoint, where it has one, is of this run.

    Raises:
        ConvzooError: It is of a run with another configuration; the text says in what they differ.
    """
    if saved := _saved(folder / NAME):
        _check_same(folder / NAME, saved, config)


def _check_same(path: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    if saved["id"] != cell_id(config):
        different = differences(saved["config"], config) if "config" in saved else f"it is {saved['id']}"
        raise ConvzooError(
            f"{path} is of a run with another configuration ({different}). Type what it had to go on with it, "
            "another hydra.run.dir, or remove the file to start anew."
        )


def saved_plan(folder: Path) -> str | None:
    """The execution plan of the run that was stopped in a folder; None where there is none."""
    return _saved(folder / NAME).get("plan")


def _saved(path: Path, tell: bool = False) -> dict[str, Any]:
    """What `LastCheckpoint` wrote beside Lightning's; empty where there is no file, or none that can be read."""
    if not path.exists():
        return {}
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["convzoo"]
    except Exception as error:  # whatever a damaged file makes torch raise
        if tell:
            print(f"{path} cannot be read ({type(error).__name__}), so this run starts anew.", flush=True)
        return {}


def _metric_states(trainer: Any, module: Any) -> dict[str, dict[str, torch.Tensor]]:
    """What the training metrics have seen of the unfinished epoch, summed over the ranks."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and metric.update_called:
            values = {k: getattr(metric, k) for k, v in metric._defaults.items() if isinstance(v, torch.Tensor)}
            states[name] = {k: trainer.strategy.reduce(v.clone(), reduce_op="sum") for k, v in values.items()}
    return states


def _random_states() -> dict[str, Any]:
    """The states of all generators, as values that ``torch.load(weights_only=True)`` takes."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
