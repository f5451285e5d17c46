"""Find the layer where the first non-finite value arises, by rerunning a batch with hooks on every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from lightning_modules.callbacks.batch import tensors_of

COMPILED = "_orig_mod."
"""Prefix that ``torch.compile`` inserts into the names of a module's layers."""


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
    with _undisturbed(module):
        watch = _Watch(module)
        try:
            value = loss()
            watch.ended(value)
            if watch.bad is None and value.requires_grad:
                value.backward()
        finally:
            watch.remove()
        return watch.bad


class _Watch:
    """Checks each layer's weights and outputs, then the gradients, until one is not finite."""

    def __init__(self, module: nn.Module) -> None:
        self.bad: Bad | None = None
        self._last: torch.Tensor | None = None
        self._handles: list[Any] = []
        for name, layer in module.named_modules():
            name = name.replace(COMPILED, "")
            # Only leaf modules are layers.
            if next(layer.children(), None) is None and not isinstance(layer, Metric):
                self._handles.append(layer.register_forward_pre_hook(self._before(name, layer)))
                self._handles.append(layer.register_forward_hook(self._after(name, layer)))
        for name, weight in module.named_parameters():
            name = name.replace(COMPILED, "")
            if weight.requires_grad:
                self._handles.append(
                    weight.register_hook(self._gradient(name.rpartition(".")[0], f"the gradient of {name}"))
                )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def ended(self, loss: torch.Tensor) -> None:
        """Check the loss after the forward pass, and watch its gradient."""
        self._look(loss, "", "the loss")
        if self._last is not None and self._last.requires_grad:
            self._handles.append(self._last.register_hook(self._gradient("", "the gradient of the loss")))

    def _before(self, name: str, layer: nn.Module) -> Callable[..., None]:
        kind = type(layer).__name__

        def look(_: nn.Module, inputs: Any) -> None:
            for given in tensors_of(inputs):
                if given.requires_grad:
                    text = f"the gradient that {name} ({kind}) passes on"
                    self._handles.append(given.register_hook(self._gradient(name, text)))
            for own, weight in layer.named_parameters(recurse=False):
                self._look(weight, name, f"the {own} of {name} ({kind})")

        return look

    def _after(self, name: str, layer: nn.Module) -> Callable[..., None]:
        def look(_: nn.Module, inputs: Any, outputs: Any) -> None:
            for given in tensors_of(outputs):
                self._look(given, name, f"the output of {name} ({type(layer).__name__})")
                self._last = given

        return look

    def _gradient(self, layer: str, what: str) -> Callable[[torch.Tensor], None]:
        return lambda gradient: self._look(gradient, layer, what)

    def _look(self, value: torch.Tensor, layer: str, what: str) -> None:
        if self.bad is None and value.is_floating_point() and not value.detach().isfinite().all():
            self.bad = Bad(layer, what)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    gradients = {p: p.grad for p in module.parameters()}
    metrics = [m for m in module.modules() if isinstance(m, Metric)]
    states = [deepcopy({k: getattr(m, k) for k in (*m._defaults, "_update_count", "_computed")}) for m in metrics]
    own = vars(module)
    logs = {name: own.get(name) for name in ("log", "log_dict") if hasattr(module, name)}
    try:
        for p in gradients:
            p.grad = None
        for name in logs:
            own[name] = lambda *_, **__: None
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, log in logs.items():
            del own[name]
            if log is not None:
                own[name] = log
        for p, gradient in gradients.items():
            p.grad = gradient
        for metric, state in zip(metrics, states, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
