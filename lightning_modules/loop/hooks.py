"""The hooks that somebody wrote: the others need not be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision


class Hook:
    """A hook of all callbacks and of the module: calls those that somebody wrote, in Lightning's order."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        self.trainer, self.module, self.name = trainer, trainer.lightning_module, name
        callbacks = [c for c in trainer.callbacks if overridden(c, name)]
        self.calls = [(f"[Callback]{c.state_key}.{name}", getattr(c, name)) for c in callbacks]
        self.own = getattr(self.module, name) if overridden(self.module, name) else None

    def __call__(self, *arguments: Any) -> None:
        # Who measures listens to the profiler.
        profiler = self.trainer.profiler
        for action, call in self.calls:
            profiler.start(action)
            calling(self.name, self.module, call, self.trainer, self.module, *arguments)
            profiler.stop(action)
        if self.own:
            calling(self.name, self.module, self.own, *arguments)


def calling(name: str, module: LightningModule, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls with the module told whose turn it is: ``self.log`` wants to know."""
    # nn.Module's __setattr__ takes a microsecond.
    attributes = module.__dict__
    before, attributes["_current_fx_name"] = attributes["_current_fx_name"], name
    result = call(*arguments, **named)
    attributes["_current_fx_name"] = before
    return result


def overridden(owner: Any, name: str) -> bool:
    """Whether a hook does anything: it is neither the base class's, nor switched off (None)."""
    base = next(b for b in (Callback, LightningModule, LightningDataModule, Precision) if isinstance(owner, b))
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", hook) is not getattr(base, name)


class Transfer:
    """A batch's way to the device: the hooks of the data module or the module, and no move of what is there already."""

    def __init__(self, trainer: Trainer) -> None:
        self.device, self.module = trainer.strategy.root_device, trainer.lightning_module
        self.before = _sender(trainer, "on_before_batch_transfer")
        self.move = _sender(trainer, "transfer_batch_to_device")
        self.after = _sender(trainer, "on_after_batch_transfer")

    def __call__(self, batch: Any) -> Any:
        if self.before:
            batch = self.before(batch, 0)
        if self.move or not _lies_on(self.device, batch):
            batch = (self.move or self.module.transfer_batch_to_device)(batch, self.device, 0)
        if self.after:
            batch = self.after(batch, 0)
        return batch


def _sender(trainer: Trainer, name: str) -> Callable[..., Any] | None:
    """The hook of the data module or of the module that sends a batch to the device; None where it is the default."""
    owner = trainer._data_connector._datahook_selector.get_instance(name)
    if not overridden(owner, name):
        return None
    hook = getattr(owner, name)
    if owner is not trainer.lightning_module:
        return hook
    return lambda *arguments: calling(name, owner, hook, *arguments)


def _lies_on(device: torch.device, batch: Any) -> bool:
    parts = batch if type(batch) in (tuple, list) else (batch,)
    return all(isinstance(part, torch.Tensor) and part.device == device for part in parts)
