"""Caches the counts of modules, so that equal modules with equal input shapes are counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.costs.mac_counter import Count

_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that every module has. Of these, only parameters, buffers, children and hooks affect a forward pass."""

_TRAINED = torch.empty((), device="meta", requires_grad=True)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = {bool, int, str, type(None), torch.dtype, type, FunctionType, BuiltinFunctionType}


class _Run(NamedTuple):
    """Counts and output of one call of a module.

    Attributes:
        counts: The counts of its operations, in order.
        output: (shape, strides, dtype, requires_grad); None if the module returned its input.
    """

    counts: tuple[Count, ...]
    output: tuple[torch.Size, tuple[int, ...], torch.dtype, bool] | None


class Repeats:
    """Cache of the counts of modules, shared by several networks.

    Two modules are equal if everything that a forward pass on the meta device can depend on is equal: classes, plain
    attributes, shapes of parameters and buffers, and children. A module always runs if it has an attribute of any
    other type or a hook, or if it is called with more than one tensor.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._runs: dict[tuple[Any, ...], _Run] = {}

    @contextmanager
    def replayed(self, net: nn.Module, count: Callable[[Count], None]) -> Iterator[Callable[[Count], None]]:
        """Context in which known modules of ``net`` replay their counts without running.

        Args:
            net: A network that runs on the meta device.
            count: Takes the counts of one operation.

        Yields:
            A recording wrapper, to be called in place of ``count``.
        """
        log: list[Count] = []

        def recorded(one: Count) -> None:
            log.append(one)
            count(one)

        numbers: dict[nn.Module, int | None] = {}
        self._number(net, numbers)
        known = [module for module, number in numbers.items() if number is not None]
        for module in known:
            vars(module)["forward"] = partial(self._forward, module.forward, numbers[module], log, recorded)
        try:
            yield recorded
        finally:
            for module in known:
                del vars(module)["forward"]

    def _forward(
        self,
        forward: Callable[..., Any],
        number: int,
        log: list[Count],
        count: Callable[[Count], None],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        if type(x) is not torch.Tensor or not x.is_meta:
            return forward(*args, **kwargs)
        needs_gradient = x.requires_grad
        key = (number, x.shape, x.stride(), x.dtype, needs_gradient)
        if run := self._runs.get(key):
            for one in run.counts:
                count(one)
            if run.output is None:
                return x
            shape, strides, dtype, requires_grad = run.output
            out = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            # A non-leaf, as in the first run: torch refuses to change a leaf in place.
            return out.add_(_TRAINED) if requires_grad else out
        start = len(log)
        out = forward(x)
        # A call that changed its input cannot be replayed.
        if type(out) is torch.Tensor and x.requires_grad == needs_gradient:
            output = None if out is x else (out.shape, out.stride(), out.dtype, out.requires_grad)
            self._runs[key] = _Run(tuple(log[start:]), output)
        return out

    def _number(self, module: nn.Module, numbers: dict[nn.Module, int | None]) -> int | None:
        """Returns a number that equal modules share; None if equality cannot be decided."""
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
    """Converts a plain value to a part of a key; raises TypeError for any other value."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:  # 1.0 == 1, but they are different settings
        return (kind, value)
    if kind in (tuple, list, torch.Size):
        return (kind, *map(_hashable, value))
    if kind is dict:
        return (kind, *((_hashable(k), _hashable(v)) for k, v in value.items()))
    if is_dataclass(kind) and kind.__dataclass_params__.frozen:
        hash(value)
        return value
    raise TypeError(f"{kind.__name__} is not plain")
