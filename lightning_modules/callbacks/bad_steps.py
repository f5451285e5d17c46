"""Stops a run, or leaves out a step, whose gradients are not finite. Works with anybody's LightningModule."""

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
"""Steps left out one after the other that stop the run: it will not come back."""

BEHIND = 2
"""Steps after which a GPU's answer is asked for: it has worked through that step by then, and nobody waits."""

CHECKPOINT = "bad_step.ckpt"


@dataclass(frozen=True)
class _Step:
    """One step whose answer is not known yet."""

    seen: list[Seen]
    number: int
    flag: torch.Tensor
    ready: torch.cuda.Event | None


class BadSteps(Callback):
    """Keeps NaN and infinity out of the weights.

    A step is bad if its loss or any gradient is not finite. It changes neither weights nor optimizer nor BatchNorm's
    statistics; then the run stops (``stop``), or goes on without it (``skip``), the schedule as if it had been taken.
    ``bad_batch.pt`` in the folder holds the first bad step's batch, its number, the layer in which the first bad value
    arose and the random states; ``bad_step.ckpt`` holds the weights from before it, where the run was stopped.

    The gradients are checked on the device that has them. A CPU is asked at once. A GPU is asked ``BEHIND`` steps later
    (by then its fused optimizer has left the step out by itself, and under ``stop`` all later ones); other optimizers
    have to wait for the answer. fp16's GradScaler leaves out steps of its own: there the loss alone is checked.
    In a distributed job all ranks decide the same: a bad loss makes its gradients bad, which are those of all ranks.

    It is off, and a warning says so, where a step is not Lightning's to leave out: under manual optimization, which
    may have changed weights of one optimizer before another one's gradients turn out to be bad, and for LBFGS, which
    moves weights and asks for gradients in turn.

    Args:
        folder: Where to put the files; None: the Trainer's ``default_root_dir``.
        action: ``stop`` or ``skip``.
        at_most: Steps left out in all before the run stops; ``IN_A_ROW`` stop it too.
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
        """How many steps were left out; empty where a bad one stops the run, or nobody looks."""
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
        self._window: list[Seen] = []  # of the step that is being made
        self._loss: torch.Tensor | None = None
        self._found = self._stepped = False
        self._took: set[Any] = set()  # optimizers that have made a step
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
        # However many are accumulated, two are held: the bad one where it is known, else the last two.
        held = self._window[:1] if self._found else self._window[-1:]
        self._window = [*held, Seen(batch, batch_idx, torch_states(self._device))]

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        if self._off:
            return
        value = loss.detach()
        if self._scales or trainer.world_size == 1:
            # A finite one adds nothing, another one NaN.
            self._loss = value if self._loss is None else self._loss + (value * 0).sum().to(self._loss)
        if self._scales or trainer.world_size > 1:
            # Every gradient becomes NaN: on all ranks, and for a GradScaler, which then leaves the step out.
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
        # Not emptied here: an optimizer may ask for the same batch again, or there may be several.
        seen, self._stepped, self._steps = self._window, True, self._steps + 1
        # Fused SGD's momentum of a first step that is left out is memory that nobody wrote.
        if self._later and optimizer in self._took:
            optimizer.found_inf = self._flag
            self._stats.keep_unless(self._flag)
            self._waiting.append(_asked(seen, self._before + self._steps, self._flag))
            self._answer(trainer, BEHIND)
        elif self._flag.item():
            self._stats.undo()
            # No optimizer touches a weight without a gradient. A GradScaler wants to see that they are bad.
            for weight in [] if self._scales else _weights(optimizer):
                weight.grad = None
            self._bad(trainer, seen, trainer.global_step + 1)
        else:
            self._stats.keep()
            self.in_a_row = 0
            self._took.add(optimizer)

    def _check(self, values: list[torch.Tensor]) -> None:
        """Sets the flag where a value is not finite; what GradScaler uses, with a factor of 1."""
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
        """Asks how the steps were, but for the last ones."""
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
        # The batch is run again.
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
        # Lightning took it before that.
        checkpoint["callbacks"][self.state_key] = self.state_dict()
        # A step with finite gradients may be so large that the weights are not finite after it.
        finite = {k: v.isfinite().all() for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
        if finite and not torch.stack([value.to(self._device) for value in finite.values()]).all().item():
            name = next(name for name, value in finite.items() if not value)
            raise ConvzooError(
                f"{name} is not finite after step {trainer.global_step}: training diverged. {self.advice}"
            )


def _not_ours(trainer: Any, module: Any) -> str | None:
    """Why a bad step cannot be left out; None where it can."""
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
    """Has the flag copied to where looking at it later makes nobody wait."""
    if flag.device.type != "cuda":
        return _Step(seen, number, flag.clone(), None)
    copy = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return _Step(seen, number, copy, ready)
