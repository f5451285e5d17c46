"""Observe the inputs of a LightningModule's networks in a training step, rather than guess them from the batch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from lightning_modules.callbacks.actions import listen
from lightning_modules.callbacks.batch import Place, count_of, images_of
from lightning_modules.callbacks.calls import Call, Recorder, count_calls, find_part

TRIES = 3
"""Maximum number of batches in which every module is watched while no images are seen."""


class Inputs:
    """Observes the first training step (or test step) of each batch.

    In the first batch all modules are watched, and compiled code runs uncompiled, because hooks cannot see into it
    otherwise. Later, only the modules that the step called are watched. If their calls are not seen then (they are
    compiled, or the step uses another part of the module), the number of images is read from the batch itself: from
    the part that matched in the first batch.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer, self._module = trainer, module
        self._action = ".test_step" if trainer.testing else ".training_step"
        self._watched: list[nn.Module] | None = None  # None: all
        self._place: tuple[Place, int] | None = None  # path of the matching part, and network images per image of it
        self._tries = 0
        self._step = ExitStack()  # what to undo when the observed step ends
        self._below: Any = None  # another observer's ``log``
        # One object for all steps: a compiled step has a guard on its identity.
        self._spy = torch.compiler.disable(self._log)
        self.begin(None)
        self._end = listen(trainer, self._hear)

    def begin(self, batch: Any) -> None:
        """Start a new batch, which is on its device."""
        self.batch = batch
        self.logged: int | None = None
        self._recorder: Recorder | None = None

    def stop(self) -> None:
        """Stop observing."""
        self._step.close()
        self._end()

    @property
    def calls(self) -> list[Call]:
        """The calls of the batch's first step; empty if it was not watched."""
        return self._recorder.calls if self._recorder else []

    def images(self, batch: Any) -> int:
        """Return the batch's number of images: the ``batch_size`` given to ``self.log``, or else `seen`; 0 if unknown.

        Args:
            batch: The batch as it is after the step.
        """
        return self.seen(batch) if self.logged is None else self.logged

    def seen(self, batch: Any) -> int:
        """Return the number of images that the step gave to the network that it trains; 0 if unknown."""
        parts = {place: count_of(found) for place, found in images_of(batch).items()}
        if images := count_calls(self.calls, set(parts.values())):
            self._place = self._place or find_part(parts, images)
            nets = {call.net for call in self.calls}
            self._watched = self._watched or ([] if self._is_compiled(nets) else list(nets))
        elif self._place is not None:
            place, factor = self._place
            images = parts.get(place, 0) * factor
        elif self._tries < TRIES:
            self._watched = None
        return images

    def _hear(self, action: str, starts: bool) -> None:
        if action.startswith("[Strategy]") and action.endswith(self._action):
            if not starts:
                self._step.close()
            elif self._recorder is None:
                self._watch()

    def _watch(self) -> None:
        own, everything = vars(self._module), self._watched is None
        self._below = own.get("log")
        own["log"] = self._spy
        self._step.callback(self._put_back_log)
        wrapped = self._trainer.strategy.model is not self._module
        self._recorder = Recorder(self._module, self.batch, wrapped, samples=everything)
        self._step.callback(self._recorder.made.clear)
        if everything:
            self._tries, self._watched = self._tries + 1, []
            self._step.enter_context(torch.compiler.set_stance("force_eager"))
        for handle in self._recorder.watch(self._module.modules() if everything else self._watched or []):
            self._step.callback(handle.remove)

    def _put_back_log(self) -> None:
        own = vars(self._module)
        if own.get("log") is self._spy:
            del own["log"]
            if self._below:
                own["log"] = self._below

    def _log(self, *arguments: Any, **named: Any) -> None:
        if self.logged is None and named.get("batch_size") is not None:
            self.logged = int(named["batch_size"])
        if self._below:
            self._below(*arguments, **named)
        else:
            type(self._module).log(self._module, *arguments, **named)

    def _is_compiled(self, nets: set[nn.Module]) -> bool:
        return hasattr(self._module.training_step, "_torchdynamo_orig_callable") or any(
            isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for net in nets for m in net.modules()
        )
