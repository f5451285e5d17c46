"""What a LightningModule's networks are given in a training step: it is observed, not guessed from the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.utils._pytree import tree_map_only

from lightning_modules.callbacks.actions import listen
from lightning_modules.callbacks.batch import Place, count_of, images_of, tensors_of

TRIES = 3
"""Batches in which everything is watched, as long as no images are seen."""


@dataclass(frozen=True)
class Call:
    """A network that was called from a step, not from within another network.

    Attributes:
        name: Of the module; ``""`` for the LightningModule's own ``forward``.
        images: How many there are in its input; 0: it holds none.
        length: Of the input's first tensor.
        key: The same where the same images are given again; None where they are not the batch's own tensors.
        derived: Whether the input comes from another network.
        trains: Whether the module has a weight that is trained.
        sample: Arguments for one image, where everything is watched.
    """

    name: str
    images: int
    length: int
    key: Any
    derived: bool
    trains: bool
    sample: tuple[tuple[Any, ...], dict[str, Any]] | None


class Inputs:
    """Observes the first training step (or test step) of each batch, while it runs.

    In the first batch all modules are watched, and what is compiled runs uncompiled, since nobody can look into it
    otherwise. Later only those are that were called from the step. Where nothing is seen of them then (they are
    compiled, or another part of the module has its turn) the batch itself says how many images it has: by the part
    that had as many in the first one.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer, self._module = trainer, module
        self._watched: list[tuple[str, nn.Module]] | None = None  # None: everything
        self._compiled = hasattr(module.training_step, "_torchdynamo_orig_callable")
        self._place: tuple[Place, int] | None = None  # of the part that says it, and how many images each of it is
        self._open, self._known, self._tries, self._hooks = False, False, 0, 0
        self._handles: list[Any] = []
        # One object: who compiles a step looks whether it is still the same.
        self._spy = torch.compiler.disable(self._log)
        self.begin(None)
        self._end = listen(trainer, self._hear)

    def begin(self, batch: Any) -> None:
        """A new batch, on its device."""
        self.batch, self.logged = batch, None
        self.calls: list[Call] = []
        self._seen = False

    def stop(self) -> None:
        """Observes no more."""
        self._close()
        self._end()

    def images(self, batch: Any) -> int:
        """How many images a batch has: what ``self.log`` was told, else what was seen; 0 where nobody can tell.

        Args:
            batch: As it was after the step.
        """
        return self.seen(batch) if self.logged is None else self.logged

    def seen(self, batch: Any) -> int:
        """How many images the step gave to the network that it trains; 0 where nobody can tell."""
        parts = {place: count_of(found) for place, found in images_of(batch).items()}
        if images := _count(self.calls, set(parts.values())):
            self._place = self._place or _find(parts, images)
            self._known = True
        elif self._place is not None:
            place, factor = self._place
            images = parts.get(place, 0) * factor
        elif self._tries < TRIES:
            self._watched = None
        return images

    def _hear(self, action: str, starts: bool) -> None:
        if action.startswith("[Callback]"):
            # It was a callback's hook that made this object.
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
        # A strategy that wraps the module has the step run inside of a call of both.
        self._wrapped = self._trainer.strategy.model is not self._module
        self._storages = {_storage(t) for t in tensors_of(self.batch)}
        if everything:
            self._tries += 1
            _eager.enter(self)
        elif self._compiled or not self._known:
            return
        for name, part in self._module.named_modules() if everything else self._watched:
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
                # Checkpointing calls it again, from the backward pass.
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
        own = [t for t in images if _storage(t) in self._storages]
        made = {_storage(t) for t in self._made}
        return Call(
            name,
            count_of(images) if images else 0,
            tensors[0].size(0) if tensors else 0,
            (own[0].data_ptr(), own[-1].data_ptr(), own[0].numel(), len(own)) if own else None,
            any(t.requires_grad or _storage(t) in made for t in tensors),
            any(p.requires_grad for p in part.parameters()),
            one_image(arguments, named) if everything else None,
        )


class _Eager:
    """Nothing runs compiled as long as somebody looks."""

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


def _count(calls: list[Call], sizes: set[int]) -> int:
    """How many images went through the network that trains on them.

    Args:
        sizes: Of the batch's own parts that hold images.
    """
    seeing = [call for call in calls if call.images]
    forward = [call for call in seeing if not call.name]
    groups = (
        [call for call in forward if call.key],
        # Not a loss that is a network itself; of a GAN, the discriminator's real images.
        [call for call in seeing if call.key and call.trains],
        [call for call in seeing if call.key],
        forward,
        [call for call in seeing if call.trains and not call.derived],
        [call for call in seeing if not call.derived],
    )
    if group := next(filter(None, groups), None):
        # The same images again are no more images, nor are those that a second network is given.
        return max(
            sum({call.key or i: call.images for i, call in enumerate(group) if call.name == name}.values())
            for name in {call.name for call in group}
        )
    # Images that the step has made flat.
    return next((call.length for call in calls if call.length in sizes), 0)


def _find(parts: dict[Place, int], images: int) -> tuple[Place, int] | None:
    """The part of a batch that has as many images, else one of which that many are a multiple (two views of each)."""
    fitting = sorted((images // size, i) for i, size in enumerate(parts.values()) if size and images % size == 0)
    return (list(parts)[fitting[0][1]], fitting[0][0]) if fitting else None


def one_image(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for one image only: of all that is as long as there are images, the first."""
    given = {**dict(enumerate(arguments)), **named}
    images = next(iter(images_of(given).values()), None)
    many = count_of(images) if images else next((t.size(0) for t in tensors_of(given) if t.ndim), 0)

    def cut(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return (x[:1] if x.ndim and x.size(0) == many else x).detach().clone()
        if type(x) in (list, tuple):
            return type(x)(cut(part) for part in (x[:1] if len(x) == many else x))
        if isinstance(x, dict):
            return {key: cut(part) for key, part in x.items()}
        return tree_map_only(torch.Tensor, cut, x)

    return tuple(cut(x) for x in arguments), {key: cut(x) for key, x in named.items()}


def _storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or no plain tensor
        return id(tensor)


def _is_compiled(part: nn.Module) -> bool:
    return any(isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in part.modules())
