"""Detects convolutions that merge into one after training: re-parameterised blocks, and adapters beside a layer.

They are recognised by what they compute, not by name: several linear paths lead from one input to one sum, so that
together they are one convolution. In a re-parameterised block (RepVGG, MobileOne, ACNet) the paths have BatchNorms of
their own; an adapter (LoRA) is a path through few channels, or a trained path beside a frozen one. Two paths that are
neither, as in attention over several dilations, stay separate at inference and are treated as ordinary convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import _efficientnet_blocks as blocks
from timm.models import efficientnet, mobilenetv3, resnet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.convs import Factored
from zoo.meta import run_on_meta, shapes_only, structure, watching

aten = torch.ops.aten

PLAIN = (
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, resnet.ResNet, resnet.BasicBlock, resnet.Bottleneck),
    *(efficientnet.EfficientNet, mobilenetv3.MobileNetV3, blocks.ConvBnAct, blocks.DepthwiseSeparableConv),
    *(blocks.InvertedResidual, blocks.EdgeResidual, blocks.UniversalInvertedResidual, Factored),
)
"""Types without such paths of their own. They are not tried, which saves time, since most networks consist of them."""

LAYERS = (_ConvNd, _BatchNorm)

SIZE = 32
"""H = W of the feature map that a block is tried with."""

_SUMS = (aten.add, aten.add_, aten.sub, aten.sub_)
_SCALES = (aten.mul, aten.mul_, aten.div, aten.div_, aten.neg)
_SAME = (
    *(aten.view, aten._unsafe_view, aten.detach, aten.alias, aten.clone, aten._to_copy, aten.constant_pad_nd),
    *(aten.avg_pool2d, aten.unsqueeze, aten.squeeze),
)


@dataclass(frozen=True)
class _Path:
    """A linear path from one tensor to another.

    Attributes:
        source: Number of the tensor where it starts.
        layers: The modules along it.
    """

    source: int
    layers: frozenset[nn.Module] = frozenset()


def merging_modules(net: nn.Module) -> dict[nn.Module, str]:
    """Returns the modules whose convolutions merge into one, and what each of them is.

    Modules are tried on the meta device, the largest first. If one does not run with a feature map (N, C, H, W), its
    children are tried instead.
    """
    found: dict[nn.Module, str] = {}
    waiting = [net]
    while waiting:
        module = waiting.pop()
        layers = [m for m in module.modules() if isinstance(m, LAYERS)]
        if isinstance(module, LAYERS) or not any(_is_spatial(m) for m in layers):
            continue
        tried = None if type(module) in PLAIN else _try(module, layers)
        if tried is None:
            waiting += module.children()
        else:
            found |= tried
    return found


def _try(module: nn.Module, layers: list[nn.Module]) -> dict[nn.Module, str] | None:
    """Tries one module on the meta device and returns its merging parts; None if it does not run."""
    copy = structure(module)
    originals = dict(zip(copy.modules(), module.modules(), strict=True))
    widths = (m.in_channels if isinstance(m, _ConvNd) else m.num_features for m in layers)
    for channels in list(dict.fromkeys(widths))[:3]:
        paths = _Paths()
        try:
            with watching(paths.enter, paths.leave), torch.random.fork_rng(devices=[]), torch.no_grad():
                run_on_meta(copy, (2, channels, SIZE, SIZE), paths)
        except Exception:  # Arbitrary modules may raise anything on a guessed input.
            continue
        return {originals[m]: why for m, why in _judge(paths) if m in originals}
    return None


def _judge(paths: _Paths) -> Iterator[tuple[nn.Module, str]]:
    for module, shapes in paths.kernels.items():
        if any(isinstance(m, _ConvNd) and m not in paths.ran and m.weight.shape in shapes for m in module.children()):
            yield module, "computes with other weights than those of the convolution that it holds"
    for module, *sides in paths.sums:
        convs = [[m for m in side if isinstance(m, _ConvNd)] for side in sides]
        if not any(_is_spatial(m) for side in convs for m in side):
            continue
        if any(isinstance(m, _BatchNorm) for side in sides for m in side):
            yield module, "is a re-parameterised block: its parallel branches merge into one convolution"
        elif all(convs) and (any(map(_narrows, convs)) or len({_is_trained(side) for side in convs}) > 1):
            yield module, "is an adapter (such as LoRA) beside a convolution: the two merge into one"


def _is_spatial(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and max(layer.kernel_size) > 1


def _narrows(convs: list[_ConvNd]) -> bool:
    """Returns whether a path passes through fewer channels than it starts and ends with."""
    ends = min(max(c.in_channels for c in convs), max(c.out_channels for c in convs))
    return len(convs) > 1 and min(c.out_channels for c in convs) < ends


def _is_trained(convs: list[_ConvNd]) -> bool:
    return any(p.requires_grad for c in convs for p in c.parameters())


class _Paths(TorchDispatchMode):
    """Follows linear paths, and records sums of two paths that each have layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[tuple[nn.Module, frozenset[nn.Module], frozenset[nn.Module]]] = []
        self.ran: set[nn.Module] = set()
        self.kernels: dict[nn.Module, set[torch.Size]] = {}
        self._running: list[nn.Module] = []
        self._paths: dict[int, _Path] = {}
        self._stacks: dict[int, list[_Path]] = {}
        self._kept: list[object] = []  # keeps tensors alive, since Python reuses the id of a freed one
        self._sources = 0

    def enter(self, module: nn.Module, args: tuple[object, ...]) -> None:
        if not self._running:
            for tensor in tree_leaves(args):
                self._begin(tensor)
        self._running.append(module)
        self.ran.add(module)

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        self._running.pop()

    def _begin(self, tensor: object) -> None:
        self._sources += 1
        self._set(tensor, _Path(self._sources))

    def _set(self, tensor: object, path: _Path) -> None:
        if isinstance(tensor, torch.Tensor):
            self._kept.append(tensor)
            self._paths[id(tensor)] = path

    def _meet(self, paths: list[_Path]) -> _Path | None:
        """Returns the sum of paths that start at one tensor; None if they start at several."""
        total = paths[0]
        for path in paths[1:]:
            if path.source != total.source:
                return None
            if path.layers - total.layers and total.layers - path.layers:
                self.sums.append((self._running[-1], total.layers, path.layers))
            total = _Path(path.source, total.layers | path.layers)
        return total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = func.overloadpacket
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        known = [self._paths[id(t)] for t in given if id(t) in self._paths]
        stacked = self._stacks.get(id(given[0])) if given else None
        out = shapes_only(func, args, kwargs or {})
        if not known:
            return out
        result, path = out[0] if isinstance(out, (tuple, list)) else out, None
        if op in (aten.convolution, aten.native_batch_norm):
            if op is aten.convolution:
                self.kernels.setdefault(self._running[-1], set()).add(args[1].shape)
            first = self._paths.get(id(args[0]))
            path = first and _Path(first.source, first.layers | {self._running[-1]})
        elif op in _SUMS:
            path = self._meet(known)
        elif op in (aten.sum, aten.mean) and stacked:
            path = self._meet(stacked)
        elif op in _SAME or (op in _SCALES and len(known) == 1):
            path = known[0]
        if path is not None:
            self._set(result, path)
            return out
        if op is aten.stack:
            self._stacks[id(out)] = known
        for tensor in tree_leaves(out):
            self._begin(tensor)
        return out
