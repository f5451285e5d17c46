"""Stop a run, or skip a step, whose loss or gradients are not finite. Works with any LightningModule."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.optim import LBFGS

from lightning_modules.callbacks.bad_batch import look_into
from lightning_modules.callbacks.step_check import Checked, StepCheck
from zoo.errors import ConvzooError, choose
from zoo.log import log

ACTIONS = ("stop", "skip")
IN_A_ROW = 5
"""Number of consecutive skipped steps that stops the run: training will not recover."""

CHECKPOINT = "bad_step.ckpt"

HERE = {"every_rank": True}
"""For messages that one rank logs: under some launchers, the environment does not know the rank."""


class DivergedError(ConvzooError):
    """Training diverged: a loss, a gradient or a weight is not finite."""


class BadSteps(Callback):
    """Keeps NaN and infinity out of the weights.

    A step is bad if its loss or any gradient is not finite. A bad step changes neither the weights nor the optimizer
    nor BatchNorm's statistics. The run then stops (``stop``) or continues without the step (``skip``); the learning
    rate schedule advances as if it had been taken. ``bad_batch.pt`` in the folder holds the first bad step's batch, its
    number, the layer where the first bad value arose, and the random states. If the run stops, ``bad_step.ckpt`` holds
    the weights from before the step.

    Gradients are checked on their own device. The result on a CPU is read at once. On a GPU it is read two steps
    later: by then its fused optimizer has skipped the step by itself, and under ``stop`` all later steps too. Other
    optimizers must wait for the result. fp16's GradScaler skips steps by itself, so only the loss is checked there.
    In a distributed job all ranks decide alike: a bad loss makes its gradients bad, and all ranks share the gradients.

    The callback is off, with a warning, if Lightning cannot skip a step: under manual optimization, which may have
    changed one optimizer's weights before another one's gradients turn out bad, and for LBFGS, which alternates
    between moving weights and evaluating gradients.

    Args:
        folder: Folder for the files; None: the Trainer's ``default_root_dir``.
        action: ``stop`` or ``skip``.
        at_most: Total number of skipped steps before the run stops; ``IN_A_ROW`` consecutive ones stop it too.
        advice: What to try, for the message.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        action: str = "stop",
        at_most: int = 20,
        advice: str = "Try a smaller learning rate, or gradient_clip_val=1.",
    ) -> None:
        self.folder, self.skips = folder, choose("action", action, ACTIONS) == "skip"
        self.at_most, self.advice = at_most, advice
        self.skipped = self.in_a_row = 0
        self._off = False
        self._check: StepCheck | None = None  # during training

    @property
    def metrics(self) -> dict[str, int]:
        """Number of skipped steps; empty if a bad step stops the run or the callback is off."""
        return {"train/skipped_steps": self.skipped} if self.skips and not self._off else {}

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        why = _why_off(trainer, pl_module)
        self._off = why is not None
        self._check = None if self._off else StepCheck(trainer, pl_module, all_after=not self.skips)
        if self._off and trainer.is_global_zero:
            warnings.warn(f"BadSteps is off: {why}. It will not detect steps that are not finite.", stacklevel=2)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._check:
            self._check.begin(batch, batch_idx)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        if self._check:
            self._check.before_backward(loss)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._check:
            for step in self._check.before_step(optimizer):
                self._judge(trainer, self._check, step)

    def _judge_all(self, trainer: Any) -> None:
        if self._check:
            for step in self._check.results():
                self._judge(trainer, self._check, step)

    def _judge(self, trainer: Any, check: StepCheck, step: Checked) -> None:
        """Count a step, report the first bad one, and stop the run if it must not continue."""
        if not step.bad():
            self.in_a_row = 0
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        stops = not self.skips or self.skipped > self.at_most or self.in_a_row >= IN_A_ROW
        if not stops and self.skipped > 1:
            return
        folder = Path(self.folder or trainer.default_root_dir)
        if stops:
            check.waiting.clear()
            try:
                trainer.save_checkpoint(folder / CHECKPOINT, weights_only=True)
            except (OSError, RuntimeError) as error:
                log.warning(f"{folder / CHECKPOINT} could not be written: {error}", extra=HERE)
                trainer.strategy.barrier()  # where the other ranks wait for the file
        # look_into reruns the batch, which changes the running statistics.
        check.stats.keep()
        found = look_into(trainer, step.seen, step.number, folder)
        check.stats.undo()
        if stops:
            many = f" {self.skipped - 1} steps before it were skipped." if self.skips else ""
            raise DivergedError(f"{found}: training diverged.{many} {self.advice}")
        if trainer.is_global_zero:
            log.warning(f"{found}: the step is skipped. At most {self.at_most} steps may be skipped.", extra=HERE)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._judge_all(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._judge_all(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or not self._check:
            return
        self._judge_all(trainer)
        # Lightning collected this state before the flags were read.
        checkpoint["callbacks"][self.state_key] = self.state_dict()
        # Finite gradients can still make a step so large that the weights overflow.
        values = {k: v for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
        device = trainer.strategy.root_device
        finite = {k: v.isfinite().all().to(device) for k, v in values.items()}
        if finite and not torch.stack([*finite.values()]).all().item():
            name = next(name for name, value in finite.items() if not value)
            raise DivergedError(
                f"{name} is not finite after step {trainer.global_step}: training diverged. {self.advice}"
            )


def _why_off(trainer: Any, module: Any) -> str | None:
    """Return why a bad step cannot be skipped; None if it can."""
    if not module.automatic_optimization:
        return "under manual optimization a training step steps its optimizers itself"
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        return "LBFGS changes weights in between its evaluations of a step"
    return None
