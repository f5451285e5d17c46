"""Keep a step whose loss or gradients are not finite from reaching the weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_modules.callbacks.bad_batch import Seen
from lightning_modules.hardware.running_stats import RunningStats
from lightning_modules.rng import torch_states

BEHIND = 2
"""Number of steps after which a GPU's flag is read: the GPU has done that step by then, so the host does not wait."""


@dataclass
class _Window:
    """The batches of the current optimizer step: several if gradients are accumulated."""

    seen: list[Seen] = field(default_factory=list)  # the bad batch if it is known, else the last two
    loss: torch.Tensor | None = None  # of all batches: not finite if one of theirs is not
    found: bool = False  # whether the bad batch is known
    stepped: bool = False


@dataclass(frozen=True)
class Checked:
    """An optimizer step.

    Attributes:
        seen: Its batches: the bad one if it is known, else the last two.
        number: Its number, from 1.
        bad: Waits for the device if necessary, and returns whether the loss or a gradient is not finite.
    """

    seen: list[Seen]
    number: int
    bad: Callable[[], bool]


class StepCheck:
    """Checks every optimizer step; a bad one changes neither weights nor optimizer nor running statistics.

    Attributes:
        stats: The running statistics, as the last good step left them.
        later: Whether the optimizer leaves out bad steps by itself, so that results may be read `BEHIND` steps later.
        waiting: Steps whose result has not been read.

    Args:
        trainer: The Trainer, when its training starts.
        module: Its LightningModule.
        all_after: Whether the optimizer leaves out all steps after a bad one too, if the result is read later.
    """

    def __init__(self, trainer: Any, module: Any, all_after: bool) -> None:
        self._trainer, self._all_after = trainer, all_after
        self._device = trainer.strategy.root_device
        self._flag, self._one = (torch.full((), value, device=self._device) for value in (0.0, 1.0))
        self._scales = getattr(trainer.precision_plugin, "scaler", None) is not None
        fused = all(getattr(o, "defaults", {}).get("fused") for o in trainer.optimizers)
        self.later = self._device.type == "cuda" and fused and not self._scales
        self.stats, self.window, self._took_a_step = RunningStats(module), _Window(), False
        self.waiting: deque[Checked] = deque()

    def begin(self, batch: Any, index: int) -> None:
        """Note a batch before its forward pass."""
        if self.window.stepped:
            self.window = _Window()
        if not self.window.found:
            self.window.seen = [*self.window.seen[-1:], Seen(batch, index, torch_states(self._device))]

    def before_backward(self, loss: torch.Tensor) -> None:
        """Note a batch's loss."""
        window, value = self.window, loss.detach()
        if self._scales or self._trainer.world_size == 1:
            # A finite loss adds 0, any other adds NaN.
            window.loss = value if window.loss is None else window.loss + (value * 0).sum().to(window.loss)
        if self._scales or self._trainer.world_size > 1:
            # A bad loss turns every gradient into NaN: on all ranks, and for a GradScaler, which then skips the step.
            loss.register_hook(lambda gradient: gradient + value * 0)
        if self._trainer.accumulate_grad_batches > 1 and not window.found and value.device.type == "cpu":
            window.found = not value.isfinite().all()
            if window.found:
                window.seen = window.seen[-1:]

    def before_step(self, optimizer: Any) -> Iterator[Checked]:
        """Let the optimizer take the step only if it is finite; yield the steps whose result can be read."""
        window, weights = self.window, [weight for group in optimizer.param_groups for weight in group["params"]]
        # GradScaler checks the gradients itself.
        gradients = [] if self._scales else [weight.grad for weight in weights if weight.grad is not None]
        if not self._all_after:
            self._flag.zero_()
        self._look(gradients if window.loss is None else [window.loss, *gradients])
        if self._scales:
            self._flag = self._trainer.strategy.reduce(self._flag, reduce_op="max")
        # Keep the window: an optimizer may evaluate the same batch again.
        window.stepped = True
        # If fused SGD skips its first step, its momentum buffer stays uninitialised memory.
        later = self.later and self._took_a_step
        self.waiting.append(Checked(window.seen, self._trainer.global_step + 1, self._reader()))
        if later:
            optimizer.found_inf = self._flag
            self.stats.keep_unless(self._flag)
        elif self.waiting[-1].bad():
            self.stats.undo()
            # No optimizer touches a weight without a gradient. A GradScaler must see the bad gradients itself.
            for weight in [] if self._scales else weights:
                weight.grad = None
        else:
            self.stats.keep()
            self._took_a_step = True
        return self.results(BEHIND if later else 0)

    def results(self, behind: int = 0) -> Iterator[Checked]:
        """Yield the waiting steps, except the last ``behind``."""
        while len(self.waiting) > behind:
            yield self.waiting.popleft()

    def _look(self, values: list[Any]) -> None:
        """Set the flag if any value is not finite, with GradScaler's own kernel and a scale of 1."""
        groups: dict[Any, Any] = torch._C._group_tensors_by_device_and_dtype([values], False)
        for (device, dtype), ((same, *_), _) in groups.items():
            same = [value.coalesce()._values() if value.is_sparse else value for value in same]
            if dtype.is_complex:
                same = [torch.view_as_real(value) for value in same]
            flag = self._flag.to(device)  # a copy if some weights are on another device
            torch._amp_foreach_non_finite_check_and_unscale_(same, flag, self._one.to(device))
            if flag is not self._flag:
                self._flag.copy_(flag)

    def _reader(self) -> Callable[[], bool]:
        """Copy the flag to where the host can read it later without waiting."""
        if self._device.type != "cuda":
            copy = self._flag.clone()
            return lambda: bool(copy)
        pinned = torch.empty((), pin_memory=True).copy_(self._flag, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()

        def read() -> bool:
            ready.synchronize()
            return bool(pinned)

        return read
