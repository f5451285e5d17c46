"""Observe the inputs of a LightningModule's networks in a training step, rather than guess them from the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from lightning_modules.callbacks.actions import listen
from lightning_modules.callbacks.batch import Place, count_of, images_of, tensors_of
from lightning_modules.callbacks.calls import Call, count_calls, find_part, one_image, storage_of

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
        self._watched: list[tuple[str, nn.Module]] | None = None  # None: everything
        self._compiled = hasattr(module.training_step, "_torchdynamo_orig_callable")
        self._place: tuple[Place, int] | None = None  # path of the matching part, and network images per image of it
        self._open, self._known, self._tries, self._hooks = False, False, 0, 0
        self._handles: list[Any] = []
        # One object for all steps: a compiled step has a guard on its identity.
        self._spy = torch.compiler.disable(self._log)
        self.begin(None)
        self._end = listen(trainer, self._hear)

    def begin(self, batch: Any) -> None:
        """Start a new batch, which is on its device."""
        self.batch, self.logged = batch, None
        self.calls: list[Call] = []
        self._seen = False

    def stop(self) -> None:
        """Stop observing."""
        self._close()
        self._end()

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
            self._known = True
        elif self._place is not None:
            place, factor = self._place
            images = parts.get(place, 0) * factor
        elif self._tries < TRIES:
            self._watched = None
        return images

    def _hear(self, action: str, starts: bool) -> None:
        if action.startswith("[Callback]"):
            # Not below 0: this object may have been made inside a callback's hook, whose start it did not hear.
            self._hooks = max(0, self._hooks + (1 if starts else -1))
        elif action.startswith("[Strategy]") and action.endswith((".training_step", ".test_step")) and not self._hooks:
            if not starts:
                self._close()
            elif not self._seen:
                self._seen = True
                self._watch()

    def _watch(self) -> None:
        self._open, everything = True, self._watched is None
        self._below = vars(self._module).get("log")
        vars(self._module)["log"] = self._spy
        self._made: list[torch.Tensor] = []
        self._stack: list[bool] = []
        self._inner: set[int] = set()
        # A strategy that wraps the module runs the step inside a call of the wrapper and of the module.
        self._wrapped = self._trainer.strategy.model is not self._module
        self._storages = {storage_of(t) for t in tensors_of(self.batch)}
        if everything:
            self._tries += 1
            _eager.enter(self)
        elif self._compiled or not self._known:
            return
        for name, part in self._module.named_modules() if everything else self._watched:
            if isinstance(part, torch.jit.ScriptModule):
                continue  # it takes no hooks
            self._handles.append(part.register_forward_pre_hook(self._before(name, everything), with_kwargs=True))
            self._handles.append(part.register_forward_hook(self._after, always_call=True))

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _eager.leave(self)
        if vars(self._module).get("log") is self._spy:
            del vars(self._module)["log"]
            if self._below:
                vars(self._module)["log"] = self._below
        self._made = []
        if self._watched is None:
            names = {call.name for call in self.calls}
            self._watched = [(name, self._module.get_submodule(name)) for name in names]
            self._compiled |= any(_is_compiled(part) for _, part in self._watched)

    def _log(self, *arguments: Any, **named: Any) -> None:
        if self.logged is None and named.get("batch_size") is not None:
            self.logged = int(named["batch_size"])
        if self._below:
            self._below(*arguments, **named)
        else:
            type(self._module).log(self._module, *arguments, **named)

    def _before(self, name: str, everything: bool) -> Callable[..., None]:
        def look(part: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                return
            if self._wrapped and part is self._module:
                self._wrapped = False
                self._stack.append(False)
                return
            outer = not any(self._stack)
            self._stack.append(True)
            if not outer:
                # Activation checkpointing calls it again from the backward pass, where it would look outermost.
                self._inner.add(id(part))
            elif id(part) not in self._inner and next(part.parameters(), None) is not None:
                self.calls.append(self._call(name, part, arguments, named, everything))

        return look

    def _after(self, part: nn.Module, arguments: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._stack.pop()
        if not any(self._stack) and next(part.parameters(), None) is not None:
            self._made += [t.detach() for t in tensors_of(output)]

    def _call(self, name: str, part: nn.Module, arguments: Any, named: Any, everything: bool) -> Call:
        given = {**dict(enumerate(arguments)), **named}
        tensors = [t for t in tensors_of(given) if t.ndim]
        images = next(iter(images_of(given).values()), [])
        own = [t for t in images if storage_of(t) in self._storages]
        made = {storage_of(t) for t in self._made}
        return Call(
            name,
            count_of(images) if images else 0,
            tensors[0].size(0) if tensors else 0,
            (own[0].data_ptr(), own[-1].data_ptr(), own[0].numel(), len(own)) if own else None,
            any(t.requires_grad or storage_of(t) in made for t in tensors),
            any(p.requires_grad for p in part.parameters()),
            one_image(arguments, named) if everything else None,
        )


class _Eager:
    """Forces eager execution as long as at least one observer is watching."""

    def __init__(self) -> None:
        self._looking: set[int] = set()
        self._stance: Any = None

    def enter(self, who: Any) -> None:
        if not self._looking:
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()
        self._looking.add(id(who))

    def leave(self, who: Any) -> None:
        if id(who) in self._looking:
            self._looking.remove(id(who))
            if not self._looking:
                self._stance.__exit__(None, None, None)


_eager = _Eager()


def _is_compiled(part: nn.Module) -> bool:
    return any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in part.modules())
