"""Folds BatchNorm into the convolution before it: for inference the same network with fewer operations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo import kernels
from zoo.inputs import Run, try_inputs
from zoo.meta import shapes_only, watching

aten = torch.ops.aten

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Exactly these types: others compute with another weight than the one they hold (weight standardisation, say)."""
BATCHNORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batchnorm(net: nn.Module, image_size: int | tuple[int, int] | None = None, inputs: Any = None) -> int:
    """Folds every BatchNorm that reads a convolution's output, and alone reads it, into that convolution; in place.

    The network computes the same in eval mode, to rounding; it can no longer be trained as before, and is put into
    eval mode. A BatchNorm with an activation of its own (timm's) leaves that behind, any other an identity. Which
    BatchNorm follows which convolution is seen from a run on the meta device.

    Args:
        net: A network that takes (N, C, H, W).
        image_size: H = W, or (H, W), that it takes; None to find out.
        inputs: What it takes instead: a tensor, a tuple of arguments, or a dict of named ones.

    Returns:
        How many were folded.

    Raises:
        UnfitError: The network did not run with these, or with anything that could be guessed.
    """
    kernels.restore(net)
    net.eval()
    pairs = try_inputs(net, _watched, image_size, inputs=inputs)
    for conv_name, norm_name in pairs:
        conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
        with torch.no_grad():
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        parent, _, name = norm_name.rpartition(".")
        setattr(net.get_submodule(parent), name, _remainder(norm))
    return len(pairs)


def _remainder(norm: nn.Module) -> nn.Module:
    """What a normalisation does besides normalising. Dropout does nothing in eval mode."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _watched(run: Run) -> list[tuple[str, str]]:
    """Names of a convolution and the BatchNorm to fold into it."""
    modules = {module: name for name, module in run.net.named_modules()}
    running: list[nn.Module] = []
    calls: Counter[nn.Module] = Counter()

    def enter(module: nn.Module, args: object) -> None:
        running.append(module)
        calls[module] += 1

    def leave(module: nn.Module, args: object, output: object) -> None:
        running.pop()

    flow = _Flow(running)
    with watching(enter, leave), torch.no_grad():
        run(flow)
    owners = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    return [
        (modules[conv], modules[norm])
        for conv, norm in flow.pairs()
        if conv in modules and norm in modules and type(conv) in CONVOLUTIONS and type(norm) in BATCHNORMS
        if calls[conv] == calls[norm] == 1 and norm.running_mean is not None
        if all(owners[id(p)] == 1 for p in (*conv.parameters(), *norm.parameters()))
        if not any((*_hooks(conv), *_hooks(norm)))
    ]


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """What would see, or change, another value than before."""
    return module._forward_hooks, module._forward_pre_hooks, getattr(module, "parametrizations", None)


class _Flow(TorchDispatchMode):
    """Which convolution's output is read by which BatchNorm, and by nothing else."""

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()
        self._running = running
        # The outputs are kept: the id of one that is gone may be given to another tensor.
        self._made: dict[int, tuple[nn.Module, torch.Tensor]] = {}
        self._readers: dict[int, list[nn.Module | None]] = {}

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [
            (self._made[key][0], readers[0])
            for key, readers in self._readers.items()
            if len(readers) == 1 and readers[0] is not None
        ]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        normalises = func.overloadpacket is aten.native_batch_norm
        for i, leaf in enumerate(tree_leaves((args, kwargs))):
            if isinstance(leaf, torch.Tensor) and id(leaf) in self._made:
                reader = self._running[-1] if normalises and i == 0 else None
                self._readers.setdefault(id(leaf), []).append(reader)
        out = shapes_only(func, args, kwargs or {})
        if func.overloadpacket is aten.convolution:
            self._made[id(out)] = self._running[-1], out
        return out
