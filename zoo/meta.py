"""Builds and runs networks on the meta device, where tensors have shapes but no values and nothing is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten

# The last four are the steps of a truncated normal.
_FILLS = {aten.normal_, aten.uniform_, aten.fill_, aten.zero_, aten.erfinv_, aten.mul_, aten.add_, aten.clamp_}


# Operations on one tensor whose result is like it, and which torch decomposes in Python on the meta device.
_UNARY = (aten.elu, aten.gelu, aten.hardsigmoid, aten.hardswish, aten.hardtanh, aten.leaky_relu, aten.mish)
_LIKE_INPUT = {op.default for op in _UNARY}


@contextmanager
def meta_init() -> Iterator[None]:
    """Builds networks without weights inside this context: they take no memory, and can be counted but not run.

    ``with zoo.meta_init(): net = zoo.build("efficientnet_b7", conv="standard")``, then ``zoo.cost(net, 600)``. It does
    what ``with torch.device("meta")`` does in half the time, since it skips the initialisation altogether.
    """
    with torch.device("meta"), _SkipInitialisation():
        yield


class _SkipInitialisation(TorchDispatchMode):
    """Skips operations that fill meta tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _FILLS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def structure(net: nn.Module) -> nn.Module:
    """Copies a network's modules but shares its tensors: attributes that a forward pass sets stay in the copy."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    for module in net.modules():
        # torch cannot copy a tensor that was computed with a gradient (the weight of `nn.utils.weight_norm`).
        shared |= {id(t): t for t in vars(module).values() if isinstance(t, torch.Tensor) and not t.is_leaf}
    try:
        return _uncompiled(copy.deepcopy(net, shared))
    except Exception:  # Arbitrary modules may hold objects that cannot be copied.
        return net


def run_watched(
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    watch: AbstractContextManager[Any],
    *,
    real: bool = False,
    training: bool = False,
) -> Any:
    """Runs a network once and returns its output. Parameters, buffers and mode stay as they are.

    Args:
        args, kwargs: Arguments of its forward.
        watch: Context that is open during the run; a `TorchDispatchMode` sees every operation.
        real: Whether it computes, with its own weights on their device (a network without weights runs on the CPU with
            zeros). Otherwise everything is on the meta device, including the tensors in ``args`` and ``kwargs``.
        training: Whether the network is in training mode during the run.
    """
    place = _as_real if real else _as_meta
    with in_mode(net, training), ExitStack() as stack:
        tensors: dict[str, torch.Tensor] | None = None
        if real and any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
            # functional_call cannot swap TorchScript's tensors.
            stack.enter_context(buffers_kept(net))
        # Most networks here are on the meta device already, and placing tensors takes time.
        elif real or not all(
            t is None or t.is_meta for m in net.modules() for t in (*m._parameters.values(), *m._buffers.values())
        ):
            tensors = {name: place(p) for name, p in net.named_parameters()}
            # Clones, because in training mode a network writes its running statistics into its buffers.
            tensors |= {name: place(b).clone() if real else place(b) for name, b in net.named_buffers()}
        device = torch.device("meta")
        if real:
            device = next((t.device for t in (tensors or net.state_dict()).values()), torch.device("cpu"))
            # Fused attention would be one operation, with a different name on every device.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        args, kwargs = tree_map_only(torch.Tensor, lambda t: t.to(device), (args, kwargs))
        # Dropout advances the random state even on the meta device, which would change a seeded run.
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(_without_fused_transformers())
        stack.enter_context(watch)
        return net(*args, **kwargs) if tensors is None else torch.func.functional_call(net, tensors, args, kwargs)


def run_on_meta(net: nn.Module, shape: tuple[int, ...], watch: AbstractContextManager[Any]) -> Any:
    """Calls `run_watched` on the meta device, with one input of the given shape."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    return run_watched(net, (torch.empty(shape, device="meta", dtype=dtype),), {}, watch)


def _as_meta(t: torch.Tensor) -> torch.Tensor:
    return t if t.is_meta else torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)


def _as_real(t: torch.Tensor) -> torch.Tensor:
    # An expanded scalar zero: even a billion weights take no memory.
    return torch.zeros((), dtype=t.dtype).expand(t.shape).requires_grad_(t.requires_grad) if t.is_meta else t


@contextmanager
def buffers_kept(net: nn.Module) -> Iterator[None]:
    """Restores the buffers (BatchNorm statistics) at the end."""
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in kept:
                buffer.copy_(was)


@contextmanager
def _without_fused_transformers() -> Iterator[None]:
    """Disables the inference fast path, which runs `nn.MultiheadAttention` and transformer layers as one operation."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Sets the mode and restores it module by module, since a network may be partly frozen."""
    modes = [(module, was) for module in net.modules() if (was := module.training) != training]
    if modes:
        net.train(training)
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was


def shapes_only(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation for a `TorchDispatchMode`, with shortcuts for those that are slow on the meta device."""
    if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
        # torch decomposes these into many operations in Python.
        if func.overloadpacket is aten.native_batch_norm:
            return args[0].new_empty(args[0].shape), args[0].new_empty(0), args[0].new_empty(0)
        if torch.Tag.inplace in func.tags and torch.Tag.pointwise in func.tags:
            return args[0]
        if func in _LIKE_INPUT:
            return torch.empty_like(args[0])
    return func(*args, **kwargs)


class ShapesOnly(TorchDispatchMode):
    """Runs a network on the meta device without decomposing slow operations."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return shapes_only(func, args, kwargs or {})


@contextmanager
def watching(enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Calls ``enter(module, args)`` before and ``leave(module, args, output)`` after each module that runs."""
    # Two global hooks: registering two on each of a thousand modules takes a tenth of the time of counting.
    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _uncompiled(net: nn.Module) -> nn.Module:
    """Removes the wrappers of ``torch.compile`` from a copy, in place: they hide modules and their names."""
    net = getattr(net, "_orig_mod", net)
    for module in net.modules():
        for name, child in module._modules.items():
            module._modules[name] = getattr(child, "_orig_mod", child)
    return net
