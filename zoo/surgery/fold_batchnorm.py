"""Folds BatchNorm into the convolution before it: for inference the same network with fewer operations."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo import kernels
from zoo.errors import ConvzooError
from zoo.inputs import Run, one_line, try_inputs
from zoo.meta import shapes_only, structure, watching
from zoo.places import RUN_HOOKS, copy_of, hidden_places, places_of, put
from zoo.surgery.computed_weights import why_computed

aten = torch.ops.aten

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Exactly these types: others compute with another weight than the one they hold (weight standardisation, say)."""
BATCHNORMS = (nn.BatchNorm2d, BatchNormAct2d)

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How far an output may be from what it was, over its largest value. Lower precisions are checked in float32."""


def fold_batchnorm(net: nn.Module, image_size: int | tuple[int, int] | None = None, inputs: Any = None) -> int:
    """Folds every BatchNorm that reads a convolution's output, and alone reads it, into that convolution; in place.

    The network computes the same in eval mode, to rounding, which is checked on a random image; it can no longer be
    trained as before, and is put into eval mode. A BatchNorm with an activation of its own (timm's) leaves that behind,
    any other an identity. Which BatchNorm follows which convolution is seen from a run on the meta device; what the
    network returns, keeps or gives to a hook counts as read. The convolutions are new modules: another network that
    has the old ones (what a feature extractor was made of) stays as it is.

    Args:
        net: A network that takes (N, C, H, W).
        image_size: H = W, or (H, W), that it takes; None to find out.
        inputs: What it takes instead: a tensor, a tuple of arguments, or a dict of named ones.

    Returns:
        How many were folded.

    Raises:
        ConvzooError: The network did not run with these, or with anything that could be guessed; or it would compute
            something else when folded. It is as it was.
    """
    was = [(module, type(module), module.training) for module in net.modules()]
    try:
        kernels.restore(net)
        net.eval()
        pairs, run = try_inputs(net, lambda run: (_watched(run), run), image_size, inputs=inputs)
        # Some keep a BatchNorm in training mode by a ``train`` of their own.
        pairs = [(conv, norm) for conv, norm in pairs if not net.get_submodule(norm).training]
        _fold_checked(net, pairs, run)
    except BaseException:
        for module, kind, training in was:
            module.__class__, module.training = kind, training
        raise
    return len(pairs)


def _fold_checked(net: nn.Module, pairs: Iterable[tuple[str, str]], run: Run) -> None:
    floats = {p.dtype for p in net.parameters() if p.is_floating_point()}
    if any(p.is_meta for p in net.parameters()):
        _fold(net, pairs)
        return
    if not floats <= set(TOLERANCE):
        _fold_checked(copy_of(net).float(), pairs, run)
        _fold(net, pairs)
        return
    before = _outputs(net, run)
    stood = _fold(net, pairs)
    try:
        _check_equal(net, before, _outputs(net, run), max((TOLERANCE[f] for f in floats), default=1e-3))
    except BaseException:
        for name, module in stood.items():
            net.set_submodule(name, module)
        raise


def _fold(net: nn.Module, pairs: Iterable[tuple[str, str]]) -> dict[str, nn.Module]:
    """Returns what stood where."""
    new: dict[nn.Module, nn.Module] = {}
    for conv, norm in ((net.get_submodule(c), net.get_submodule(n)) for c, n in pairs):
        new[conv] = folded = structure(conv)
        with torch.no_grad():
            folded.weight, folded.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        folded.bias.requires_grad_(conv.weight.requires_grad)
        # Dropout, a third thing in timm's, does nothing in eval mode.
        new[norm] = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
    return put(net, new)


def _outputs(net: nn.Module, run: Run) -> list[torch.Tensor]:
    """What a network returns for the inputs of a run, random ones where these hold nothing."""
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)

    def real(t: torch.Tensor) -> torch.Tensor:
        t = torch.rand(t.shape, generator=generator) if t.is_meta else t
        return t.to(like.device, like.dtype if t.is_floating_point() else t.dtype)

    args, kwargs = tree_map_only(torch.Tensor, real, (run.args, run.kwargs))
    devices = [like.device] if like.is_cuda else []
    # TensorFloat-32 would be further off than what is looked for.
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
    with torch.random.fork_rng(devices=devices), torch.no_grad(), exact:
        torch.manual_seed(0)
        try:
            return [t.clone() for t in _tensors(net(*args, **kwargs))]
        except Exception as error:  # Whatever a network of somebody's does with an input that was made up.
            raise ConvzooError(
                f"{type(net).__name__} could not be run on random inputs to check the fold ({one_line(error)})."
            ) from error


def _check_equal(net: nn.Module, before: list[torch.Tensor], after: list[torch.Tensor], tolerance: float) -> None:
    largest = max((t.abs().max().item() for t in before if t.numel()), default=0.0)
    for old, new in zip(before, after, strict=True):
        there = old.isfinite() & new.isfinite()
        if not there.any():
            continue
        off = (old[there].double() - new[there].double()).abs().max().item()
        if off > tolerance * max(old[there].abs().max().item(), tolerance * largest):
            raise ConvzooError(
                f"{type(net).__name__} with its BatchNorms folded computes something else (off by {off:.3g} on a "
                "random image), so it was left as it is: what it does with a convolution's output was not seen. Leave "
                "its BatchNorms alone."
            )


def _tensors(value: Any, depth: int = 6) -> list[torch.Tensor]:
    """The tensors in whatever a network returns: dicts, lists, dataclasses, objects."""
    if isinstance(value, torch.Tensor):
        return [value]
    if depth == 0 or isinstance(value, (str, bytes, nn.Module, type)):
        return []
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)
    else:
        items = list(getattr(value, "__dict__", {}).values())
        items += [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    return [tensor for item in items for tensor in _tensors(item, depth - 1)]


def _watched(run: Run) -> list[tuple[str, str]]:
    """Names of a convolution and the BatchNorm to fold into it."""
    places = places_of(run.net)
    running: list[nn.Module] = []
    calls: Counter[nn.Module] = Counter()
    flow = _Flow(running)

    def enter(module: nn.Module, args: object) -> None:
        running.append(module)
        calls[module] += 1
        if module._forward_pre_hooks or module._forward_hooks:
            flow.read(_tensors(args))

    def leave(module: nn.Module, args: object, output: object) -> None:
        running.pop()
        if module._forward_hooks:
            flow.read(_tensors(output))

    with watching(enter, leave), torch.no_grad():
        output = run(flow)
    flow.read(_tensors(output))
    pairs = flow.pairs()
    owners = Counter(id(p) for module in places for p in module.parameters(recurse=False))
    hidden = {module for _, module in hidden_places(run.net, [module for pair in pairs for module in pair])}
    return [
        (places[conv][0], places[norm][0])
        for conv, norm in pairs
        if conv in places and norm in places and type(conv) in CONVOLUTIONS and type(norm) in BATCHNORMS
        if calls[conv] == calls[norm] == 1 and norm.running_mean is not None
        if all(owners[id(p)] == 1 for p in (*conv.parameters(), *norm.parameters()))
        if not any(getattr(module, hooks) for module in (conv, norm) for hooks in RUN_HOOKS)
        if not why_computed(conv) and not why_computed(norm) and not {conv, norm} & hidden
    ]


@dataclass
class _Made:
    """A convolution's output, and who reads it: a BatchNorm, or None for anything else."""

    by: nn.Module
    tensor: weakref.ref[torch.Tensor]
    readers: list[nn.Module | None]


class _Flow(TorchDispatchMode):
    """Which convolution's output is read by which BatchNorm, and by nothing else."""

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()
        self._running = running
        self._made: list[_Made] = []
        self._known: dict[int, _Made] = {}

    def read(self, tensors: Iterable[object], by: nn.Module | None = None) -> None:
        """Notes that some values are read, by a BatchNorm or (None) by anything else."""
        for tensor in tensors:
            made = self._known.get(id(tensor))
            # The id of one that is gone may have been given to another.
            if made is not None and made.tensor() is tensor:
                made.readers.append(by)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Once it has run: what is there still is kept by somebody (an attribute, a list, a hook), so it is read."""
        if any(made.tensor() is not None for made in self._made):
            gc.collect()
        alone = [m for m in self._made if m.tensor() is None and len(m.readers) == 1]
        return [(m.by, m.readers[0]) for m in alone if m.readers[0] is not None]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        normalises = func.overloadpacket in (aten.native_batch_norm, aten.cudnn_batch_norm)
        for i, leaf in enumerate(tree_leaves((args, kwargs))):
            self.read([leaf], self._running[-1] if normalises and i == 0 else None)
        out = shapes_only(func, args, kwargs or {})
        if func.overloadpacket is aten.convolution:
            made = _Made(self._running[-1], weakref.ref(out), [])
            self._made.append(made)
            self._known[id(out)] = made
        return out
