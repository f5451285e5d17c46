"""Networks on the meta device: there a network has shapes and nothing else, and runs without computing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# The last four are what truncated normals are made of.
_FILLS = {aten.normal_, aten.uniform_, aten.fill_, aten.zero_, aten.erfinv_, aten.mul_, aten.add_, aten.clamp_}


@contextmanager
def weightless() -> Iterator[None]:
    """Networks built inside have no weights: they take no memory, and can be counted but not run.

    ``with zoo.weightless(): net = zoo.build("efficientnet_b7", conv="standard")``, then ``zoo.cost(net, 600)``. As
    ``with torch.device("meta")``, but in half the time: nothing is initialised, not even on paper.
    """
    with torch.device("meta"), _SkipInitialisation():
        yield


class _SkipInitialisation(TorchDispatchMode):
    """Leaves out what would fill a tensor that holds nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _FILLS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def structure(net: nn.Module) -> nn.Module:
    """A copy of a network's modules that shares its tensors: what a forward pass leaves behind stays in the copy."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    try:
        return _uncompiled(copy.deepcopy(net, shared))
    except Exception:  # Not everything that a module of somebody's holds can be copied.
        return net


def run_on_meta(net: nn.Module, shape: tuple[int, ...], watch: TorchDispatchMode, training: bool = False) -> Any:
    """Runs a network on one input of a shape, on the meta device; its tensors and its mode are as before.

    Returns its output.

    Args:
        watch: Sees every operation.
        training: Whether the network is in training mode meanwhile.
    """
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    with _mode(net, training):
        image = torch.empty(shape, device="meta", dtype=dtype)
        if all(t is None or t.is_meta for m in net.modules() for t in (*m._parameters.values(), *m._buffers.values())):
            with watch:
                net(image)
            return
        tensors = _on_meta(net)
        with watch:
            return torch.func.functional_call(net, tensors, (image,))


def _on_meta(net: nn.Module) -> dict[str, torch.Tensor]:
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        name: t if t.is_meta else torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)
        for name, t in tensors.items()
    }


@contextmanager
def _mode(net: nn.Module, training: bool) -> Iterator[None]:
    """A mode, module by module, and back: a network may be partly frozen."""
    modes = [(module, was) for module in net.modules() if (was := module.training) != training]
    if modes:
        net.train(training)
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was


def shapes_only(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, for a `TorchDispatchMode`: on the meta device without what takes most of its time there."""
    if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
        # torch composes these of many operations in Python.
        if func.overloadpacket is aten.native_batch_norm:
            return args[0].new_empty(args[0].shape), args[0].new_empty(0), args[0].new_empty(0)
        if torch.Tag.inplace in func.tags and torch.Tag.pointwise in func.tags:
            return args[0]
    return func(*args, **kwargs)


@contextmanager
def watching(enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Calls ``enter(module, args)`` before and ``leave(module, args, output)`` after every module that runs."""
    # Two hooks on all modules there are, because two on each of a thousand take a tenth of the time of counting.
    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _uncompiled(net: nn.Module) -> nn.Module:
    """A copy's modules without what ``torch.compile`` put around them: it hides them, and their names."""
    net = getattr(net, "_orig_mod", net)
    for module in net.modules():
        for name, child in module._modules.items():
            module._modules[name] = getattr(child, "_orig_mod", child)
    return net
