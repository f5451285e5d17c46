"""A module that comes again, with an input of the same shape, is counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn

_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that every module has. Of these only parameters, buffers, children and hooks shape a forward pass."""

_TRAINED = torch.empty((), device="meta", requires_grad=True)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = {bool, int, str, type(None), torch.dtype, type, FunctionType, BuiltinFunctionType}


class _Run(NamedTuple):
    """What one call of a module counted and gave out.

    Attributes:
        calls: Which listener was called with what, in order.
        output: (shape, strides, dtype, requires_grad); None where the input itself came back.
    """

    calls: tuple[tuple[int, tuple[Any, ...]], ...]
    output: tuple[torch.Size, tuple[int, ...], torch.dtype, bool] | None


class Repeats:
    """Remembers what modules counted, from network to network.

    Two modules are the same where all that a forward pass on the meta device can depend on is: their classes, plain
    attributes, shapes of parameters and buffers, and children. A module with an attribute of any other type, with a
    hook, or that is called with more than one tensor always runs.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._runs: dict[tuple[Any, ...], _Run] = {}

    @contextmanager
    def replayed(self, net: nn.Module, *listeners: Callable[..., None]) -> Iterator[list[Callable[..., None]]]:
        """Inside, modules of ``net`` that ran before hand out their counts without running.

        Args:
            net: A network that runs on the meta device.
            listeners: Take the counts of one operation each.

        Yields:
            What is to be called in their places.
        """
        log: list[tuple[int, tuple[Any, ...]]] = []

        def logged(number: int) -> Callable[..., None]:
            def call(*counts: Any) -> None:
                log.append((number, counts))
                listeners[number](*counts)

            return call

        calls = [logged(number) for number in range(len(listeners))]
        numbers: dict[nn.Module, int | None] = {}
        self._number(net, numbers)
        known = [module for module, number in numbers.items() if number is not None]
        for module in known:
            vars(module)["forward"] = partial(self._forward, module.forward, numbers[module], log, calls)
        try:
            yield calls
        finally:
            for module in known:
                del vars(module)["forward"]

    def _forward(
        self,
        forward: Callable[..., Any],
        number: int,
        log: list[tuple[int, tuple[Any, ...]]],
        calls: list[Callable[..., None]],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        if type(x) is not torch.Tensor or not x.is_meta:
            return forward(*args, **kwargs)
        needs_gradient = x.requires_grad
        key = (number, x.shape, x.stride(), x.dtype, needs_gradient)
        if run := self._runs.get(key):
            for listener, counts in run.calls:
                calls[listener](*counts)
            if run.output is None:
                return x
            shape, strides, dtype, requires_grad = run.output
            out = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            # The result of something, as before: torch refuses to change a leaf in place.
            return out.add_(_TRAINED) if requires_grad else out
        start = len(log)
        out = forward(x)
        # One that changed its input cannot be replayed.
        if type(out) is torch.Tensor and x.requires_grad == needs_gradient:
            output = None if out is x else (out.shape, out.stride(), out.dtype, out.requires_grad)
            self._runs[key] = _Run(tuple(log[start:]), output)
        return out

    def _number(self, module: nn.Module, numbers: dict[nn.Module, int | None]) -> int | None:
        """Equal for two modules that are the same; None where that cannot be told."""
        if module in numbers:
            return numbers[module]
        children = [(name, child and self._number(child, numbers)) for name, child in module._modules.items()]
        numbers[module] = None
        if any(number is None and module._modules[name] is not None for name, number in children):
            return None
        own = vars(module)
        if any(own[hooks] for hooks in _HOOKS):
            return None
        try:
            settings = [
                (name, value if type(value) in _PLAIN else _hashable(value))
                for name, value in own.items()
                if name not in _OWN
            ]
        except TypeError:
            return None
        tensors = [
            (name, t if t is None else (t.shape, t.dtype, t.requires_grad))
            for held in (own["_parameters"], own["_buffers"])
            for name, t in held.items()
        ]
        signature = (type(module), *settings, "tensors", *tensors, "children", *children)
        numbers[module] = self._numbers.setdefault(signature, len(self._numbers))
        return numbers[module]


def _hashable(value: Any) -> Any:
    """A plain value as a part of a key; raises TypeError for any other."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:  # 1.0 and 1 are equal, and not the same setting
        return (kind, value)
    if kind in (tuple, list, torch.Size):
        return (kind, *map(_hashable, value))
    if kind is dict:
        return (kind, *((_hashable(k), _hashable(v)) for k, v in value.items()))
    if is_dataclass(kind) and kind.__dataclass_params__.frozen:
        hash(value)
        return value
    raise TypeError(f"{kind.__name__} is not plain")
