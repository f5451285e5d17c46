"""Find the layer where the first non-finite value arises, by rerunning a batch with hooks on every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from lightning_modules.callbacks.batch import tensors_of
from zoo.meta import watching

COMPILED = "_orig_mod."
"""Prefix that ``torch.compile`` inserts into the names of a module's layers."""

LOGS = ("log", "log_dict")
"""Methods of a LightningModule that are off while the batch runs again."""


@dataclass(frozen=True)
class Bad:
    """The first value that is not finite.

    Attributes:
        layer: Name of the layer; ``""`` if the value is outside all layers: in the batch itself, or in the loss.
        what: Description of the value and its layer, in words.
    """

    layer: str
    what: str


def first_bad(module: nn.Module, batch: Any, loss: Callable[[], torch.Tensor]) -> Bad | None:
    """Run the forward and backward pass and return the first value that is not finite.

    Gradients, metrics and logged values stay as they were; running statistics and random states change.

    Args:
        module: Module whose layers are watched.
        batch: Its input.
        loss: Runs the forward pass over the batch and returns the loss.

    Returns:
        The first bad value; None if all values are finite.
    """
    if not all(t.isfinite().all() for t in tensors_of(batch)):
        return Bad("", "the batch itself, before any layer")
    with _undisturbed(module), ExitStack() as hooks:
        watch = _Watch(module, hooks)
        value = loss()
        watch.end_forward(value)
        if watch.bad is None and value.requires_grad:
            value.backward()
        return watch.bad


class _Watch:
    """Checks each layer's weights and outputs, then the gradients, until one is not finite.

    Args:
        module: Module whose layers are watched.
        hooks: Removes the hooks when it closes.
    """

    def __init__(self, module: nn.Module, hooks: ExitStack) -> None:
        self.bad: Bad | None = None
        self._hooks, self._last = hooks, torch.zeros(())
        named = {layer: name.replace(COMPILED, "") for name, layer in module.named_modules()}
        # Only leaf modules are layers.
        self._layers = {
            layer: name
            for layer, name in named.items()
            if next(layer.children(), None) is None and not isinstance(layer, Metric)
        }
        hooks.enter_context(watching(self._enter, self._leave))
        for name, weight in module.named_parameters():
            name = name.replace(COMPILED, "")
            self._watch_gradient(weight, name.rpartition(".")[0], f"the gradient of {name}")

    def end_forward(self, loss: torch.Tensor) -> None:
        """Check the loss, and watch its gradient."""
        self._look(loss, "", "the loss")
        self._watch_gradient(self._last, "", "the gradient of the loss")

    def _enter(self, layer: nn.Module, inputs: Any) -> None:
        if (name := self._layers.get(layer)) is None:
            return
        for given in tensors_of(inputs):
            self._watch_gradient(given, name, f"the gradient that {name} ({type(layer).__name__}) passes on")
        for own, weight in layer.named_parameters(recurse=False):
            self._look(weight, name, f"the {own} of {name} ({type(layer).__name__})")

    def _leave(self, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        if (name := self._layers.get(layer)) is None:
            return
        for given in tensors_of(outputs):
            self._look(given, name, f"the output of {name} ({type(layer).__name__})")
            self._last = given

    def _watch_gradient(self, value: torch.Tensor, layer: str, what: str) -> None:
        if value.requires_grad:
            self._hooks.enter_context(value.register_hook(lambda gradient: self._look(gradient, layer, what)))

    def _look(self, value: torch.Tensor, layer: str, what: str) -> None:
        if self.bad is None and value.is_floating_point() and not value.detach().isfinite().all():
            self.bad = Bad(layer, what)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    gradients = {p: p.grad for p in module.parameters()}
    metrics = [m for m in module.modules() if isinstance(m, Metric)]
    states = [deepcopy({k: getattr(m, k) for k in (*m._defaults, "_update_count", "_computed")}) for m in metrics]
    own, before = vars(module), dict(vars(module))
    try:
        for p in gradients:
            p.grad = None
        for name in LOGS:
            own[name] = lambda *_, **__: None
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name in LOGS:
            del own[name]
        own.update({name: before[name] for name in LOGS if name in before})
        for p, gradient in gradients.items():
            p.grad = gradient
        for metric, state in zip(metrics, states, strict=True):
            vars(metric).update(state)
