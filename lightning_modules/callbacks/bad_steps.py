"""Stop a run, or skip a step, whose loss or gradients are not finite. Works with any LightningModule."""

from __future__ import annotations

import warnings
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.optim import LBFGS

from lightning_modules.callbacks.bad_batch import Seen, look_into
from lightning_modules.hardware.running_stats import RunningStats
from lightning_modules.rng import torch_states
from zoo.errors import ConvzooError, choose

ACTIONS = ("stop", "skip")
IN_A_ROW = 5
"""Number of consecutive skipped steps that stops the run: training will not recover."""

BEHIND = 2
"""Number of steps after which a GPU's flag is read: the GPU has done that step by then, so the host does not wait."""

CHECKPOINT = "bad_step.ckpt"


@dataclass(frozen=True)
class _Step:
    """One step whose flag has not been read yet."""

    seen: list[Seen]
    number: int
    flag: torch.Tensor
    ready: torch.cuda.Event | None


class BadSteps(Callback):
    """Keeps NaN and infinity out of the weights.

    A step is bad if its loss or any gradient is not finite. A bad step changes neither the weights nor the optimizer
    nor BatchNorm's statistics. The run then stops (``stop``) or continues without the step (``skip``); the learning
    rate schedule advances as if it had been taken. ``bad_batch.pt`` in the folder holds the first bad step's batch, its
    number, the layer where the first bad value arose, and the random states. If the run stops, ``bad_step.ckpt`` holds
    the weights from before the step.

    Gradients are checked on their own device. The result on a CPU is read at once. On a GPU it is read ``BEHIND`` steps
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
        self._waiting: deque[_Step] = deque()

    @property
    def metrics(self) -> dict[str, int]:
        """Number of skipped steps; empty if a bad step stops the run or the callback is off."""
        return {"train/skipped_steps": self.skipped} if self.skips and not self._off else {}

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        why = _not_ours(trainer, pl_module)
        self._off = why is not None
        if self._off:
            if trainer.is_global_zero:
                warnings.warn(f"BadSteps is off: {why}. Steps that are not finite are not noticed.", stacklevel=2)
            return
        self._device = trainer.strategy.root_device
        self._stats = RunningStats(pl_module)
        self._flag, self._one = (torch.full((), value, device=self._device) for value in (0.0, 1.0))
        self._window: list[Seen] = []  # of the current step
        self._loss: torch.Tensor | None = None
        self._found = self._stepped = False
        self._took: set[Any] = set()  # optimizers that have taken a step
        self._waiting.clear()
        self._before, self._steps = trainer.global_step, 0
        self._scales = getattr(trainer.precision_plugin, "scaler", None) is not None
        fused = all(getattr(o, "defaults", {}).get("fused") for o in trainer.optimizers)
        self._later = self._device.type == "cuda" and fused and not self._scales

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._off:
            return
        if self._stepped:
            self._window, self._loss, self._found, self._stepped = [], None, False, False
        # Hold two batches, however many are accumulated: the bad one if it is known, else the last two.
        held = self._window[:1] if self._found else self._window[-1:]
        self._window = [*held, Seen(batch, batch_idx, torch_states(self._device))]

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        if self._off:
            return
        value = loss.detach()
        if self._scales or trainer.world_size == 1:
            # A finite loss adds 0, any other adds NaN.
            self._loss = value if self._loss is None else self._loss + (value * 0).sum().to(self._loss)
        if self._scales or trainer.world_size > 1:
            # A bad loss turns every gradient into NaN: on all ranks, and for a GradScaler, which then skips the step.
            loss.register_hook(lambda gradient: gradient + value * 0)
        if trainer.accumulate_grad_batches > 1 and not self._found and value.device.type == "cpu":
            self._found = not value.isfinite().all()
            if self._found:
                self._window = self._window[-1:]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._off:
            return
        if self.skips:
            self._flag.zero_()
        self._check([*([] if self._loss is None else [self._loss]), *([] if self._scales else _gradients(optimizer))])
        if self._scales:
            self._flag = trainer.strategy.reduce(self._flag, reduce_op="max")
        # Keep the window: an optimizer may evaluate the same batch again, and there may be several optimizers.
        seen, self._stepped, self._steps = self._window, True, self._steps + 1
        # If fused SGD skips its first step, its momentum buffer stays uninitialised memory.
        if self._later and optimizer in self._took:
            optimizer.found_inf = self._flag
            self._stats.keep_unless(self._flag)
            self._waiting.append(_asked(seen, self._before + self._steps, self._flag))
            self._answer(trainer, BEHIND)
        elif self._flag.item():
            self._stats.undo()
            # No optimizer touches a weight without a gradient. A GradScaler must see the bad gradients itself.
            for weight in [] if self._scales else _weights(optimizer):
                weight.grad = None
            self._bad(trainer, seen, trainer.global_step + 1)
        else:
            self._stats.keep()
            self.in_a_row = 0
            self._took.add(optimizer)

    def _check(self, values: list[torch.Tensor]) -> None:
        """Set the flag if any value is not finite, with GradScaler's own kernel and a scale of 1."""
        for (device, kind), ((same, *_), _) in torch._C._group_tensors_by_device_and_dtype([values], False).items():
            same = [value.coalesce()._values() if value.is_sparse else value for value in same]
            if kind.is_complex:
                same = [torch.view_as_real(value) for value in same]
            if device == self._flag.device:
                torch._amp_foreach_non_finite_check_and_unscale_(same, self._flag, self._one)
            else:
                flag, one = self._flag.new_zeros((), device=device), self._one.to(device)
                torch._amp_foreach_non_finite_check_and_unscale_(same, flag, one)
                self._flag.logical_or_(flag.to(self._flag.device))

    def _answer(self, trainer: Any, behind: int = 0) -> None:
        """Read the flags of all waiting steps except the last ``behind``."""
        while len(self._waiting) > behind:
            step = self._waiting.popleft()
            if step.ready is not None:
                step.ready.synchronize()
            if step.flag.item():
                self._bad(trainer, step.seen, step.number)
            else:
                self.in_a_row = 0

    def _bad(self, trainer: Any, seen: list[Seen], number: int) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        too_many = self.skipped > self.at_most or self.in_a_row >= IN_A_ROW
        stops = not self.skips or too_many
        if not stops and self.skipped > 1:
            return
        folder = Path(self.folder or trainer.default_root_dir)
        if stops:
            self._waiting.clear()
            try:
                trainer.save_checkpoint(folder / CHECKPOINT, weights_only=True)
            except (OSError, RuntimeError) as error:
                print(f"{folder / CHECKPOINT} could not be written: {error}", flush=True)
                trainer.strategy.barrier()  # where the other ranks wait for the file
        # look_into reruns the batch, which changes the running statistics.
        self._stats.keep()
        found = look_into(trainer, seen, number, folder)
        self._stats.undo()
        if stops:
            many = f" {self.skipped - 1} steps before it were left out." if self.skips else ""
            raise ConvzooError(f"{found}: training diverged.{many} {self.advice}")
        if trainer.is_global_zero:
            print(f"{found}: the step is left out, as will be up to {self.at_most} (optim.bad_step=skip).", flush=True)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._answer(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._answer(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or self._off:
            return
        self._answer(trainer)
        # Lightning collected this state before the flags were read.
        checkpoint["callbacks"][self.state_key] = self.state_dict()
        # Finite gradients can still make a step so large that the weights overflow.
        finite = {k: v.isfinite().all() for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
        if finite and not torch.stack([value.to(self._device) for value in finite.values()]).all().item():
            name = next(name for name, value in finite.items() if not value)
            raise ConvzooError(
                f"{name} is not finite after step {trainer.global_step}: training diverged. {self.advice}"
            )


def _not_ours(trainer: Any, module: Any) -> str | None:
    """Return why a bad step cannot be skipped; None if it can."""
    if not module.automatic_optimization:
        return "under manual optimization a training step steps its optimizers itself"
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        return "LBFGS changes weights in between its evaluations of a step"
    return None


def _weights(optimizer: Any) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _gradients(optimizer: Any) -> list[torch.Tensor]:
    return [weight.grad for weight in _weights(optimizer) if weight.grad is not None]


def _asked(seen: list[Seen], number: int, flag: torch.Tensor) -> _Step:
    """Copy the flag to where the host can read it later without waiting."""
    if flag.device.type != "cuda":
        return _Step(seen, number, flag.clone(), None)
    copy = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return _Step(seen, number, copy, ready)
