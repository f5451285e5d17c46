"""Networks on the meta device: there a network has shapes and nothing else, and runs without computing."""

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

# The last four are what truncated normals are made of.
_FILLS = {aten.normal_, aten.uniform_, aten.fill_, aten.zero_, aten.erfinv_, aten.mul_, aten.add_, aten.clamp_}


@contextmanager
def meta_init() -> Iterator[None]:
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
    for module in net.modules():
        # torch copies no tensor that was computed with a gradient (the weight of `nn.utils.weight_norm`).
        shared |= {id(t): t for t in vars(module).values() if isinstance(t, torch.Tensor) and not t.is_leaf}
    try:
        return _uncompiled(copy.deepcopy(net, shared))
    except Exception:  # Not everything that a module of somebody's holds can be copied.
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
    """Runs a network once; its parameters, buffers and mode are as before. Returns its output.

    Args:
        args, kwargs: What its forward is called with.
        watch: Open while it runs; a `TorchDispatchMode` sees every operation.
        real: Whether it computes: with its own weights where they are (a weightless one on the CPU, with zeros). Else
            everything, the tensors in ``args`` and ``kwargs`` too, is on the meta device.
        training: Whether the network is in training mode meanwhile.
    """
    place = _as_real if real else _as_meta
    with _mode(net, training), ExitStack() as stack:
        tensors: dict[str, torch.Tensor] | None = None
        if real and any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
            # TorchScript's tensors cannot be exchanged for a call.
            stack.enter_context(_buffers_kept(net))
        # Most are weightless, and this takes a while.
        elif real or not all(
            t is None or t.is_meta for m in net.modules() for t in (*m._parameters.values(), *m._buffers.values())
        ):
            tensors = {name: place(p) for name, p in net.named_parameters()}
            # What a network in training mode counts and averages is written into its buffers.
            tensors |= {name: place(b).clone() if real else place(b) for name, b in net.named_buffers()}
        device = torch.device("meta")
        if real:
            device = next((t.device for t in (tensors or net.state_dict()).values()), torch.device("cpu"))
            # Fused attention is one operation there, of another name on every device.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        args, kwargs = tree_map_only(torch.Tensor, lambda t: t.to(device), (args, kwargs))
        # Dropout draws random numbers on the meta device too, and a run's seed must not feel it.
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(_without_fused_transformers())
        stack.enter_context(watch)
        return net(*args, **kwargs) if tensors is None else torch.func.functional_call(net, tensors, args, kwargs)


def run_on_meta(net: nn.Module, shape: tuple[int, ...], watch: AbstractContextManager[Any]) -> Any:
    """`run_watched` on the meta device, with one input of a shape."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    return run_watched(net, (torch.empty(shape, device="meta", dtype=dtype),), {}, watch)


def _as_meta(t: torch.Tensor) -> torch.Tensor:
    return t if t.is_meta else torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)


def _as_real(t: torch.Tensor) -> torch.Tensor:
    # One zero, seen in all places: a network of a billion weights takes no memory.
    return torch.zeros((), dtype=t.dtype).expand(t.shape).requires_grad_(t.requires_grad) if t.is_meta else t


@contextmanager
def _buffers_kept(net: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in kept:
                buffer.copy_(was)


@contextmanager
def _without_fused_transformers() -> Iterator[None]:
    """`nn.MultiheadAttention` and the transformer layers have one operation for all they do, where nothing trains."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


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
