"""Folds BatchNorm into the preceding convolution: the same function at inference, with fewer operations."""

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
from zoo.errors import ConvzooError, one_line
from zoo.image_size import Size
from zoo.inputs import Run, try_inputs
from zoo.meta import in_mode, shapes_only, structure, watching
from zoo.places import RUN_HOOKS, copy_of, hidden_places, places_of, put
from zoo.surgery.computed_weights import why_computed

aten = torch.ops.aten

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Exactly these types: others may compute with another weight than they hold (as in weight standardisation)."""
BATCHNORMS = (nn.BatchNorm2d, BatchNormAct2d)

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Allowed deviation of an output, relative to its largest value. Lower precisions are checked in float32."""


def fold_batchnorm(net: nn.Module, image_size: Size | None = None, inputs: Any = None) -> int:
    """Folds every BatchNorm that is the only reader of a convolution's output into that convolution, in place.

    In eval mode the network computes the same, up to rounding, which is verified on a random image. It is put into eval
    mode and can no longer be trained as before. A BatchNorm with a built-in activation (timm's) is replaced by that
    activation, any other by an identity. A run on the meta device shows which BatchNorm follows which convolution; an
    output that the network returns, stores or passes to a hook counts as read. The convolutions are new modules, so
    that another network with the old ones (the one that a feature extractor was made of) does not change.

    Args:
        net: A network that takes (N, C, H, W).
        image_size: H = W, or (H, W), that it accepts; None to try likely sizes.
        inputs: Inputs of a network that takes no image: a tensor, a tuple of arguments, or a dict of named ones.

    Returns:
        The number of BatchNorms that were folded.

    Raises:
        ConvzooError: The network runs neither with the given nor with any guessed input, or would compute something
            else when folded. It is unchanged.
    """
    with in_mode(net, training=False):
        pairs, run = try_inputs(net, lambda run: (_find_pairs(run), run), image_size, inputs=inputs)
        # Some networks override ``train`` to keep a BatchNorm in training mode.
        pairs = [(conv, norm) for conv, norm in pairs if not net.get_submodule(norm).training]
        _fold_checked(net, pairs, run)
    kernels.restore(net)
    net.eval()
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
    except BaseException:  # Ctrl-C, too, must leave the network as it was.
        for name, module in stood.items():
            net.set_submodule(name, module)
        raise


def _fold(net: nn.Module, pairs: Iterable[tuple[str, str]]) -> dict[str, nn.Module]:
    """Folds the pairs, and returns the old modules by name."""
    new: dict[nn.Module, nn.Module] = {}
    for conv, norm in ((net.get_submodule(c), net.get_submodule(n)) for c, n in pairs):
        new[conv] = folded = structure(conv)
        with torch.no_grad():
            folded.weight, folded.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        folded.bias.requires_grad_(conv.weight.requires_grad)
        # timm's BatchNormAct2d may also hold dropout, which does nothing in eval mode.
        new[norm] = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
    return put(net, new)


def _outputs(net: nn.Module, run: Run) -> list[torch.Tensor]:
    """Returns a network's outputs for the inputs of a run; meta tensors are replaced by random ones."""
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)

    def real(t: torch.Tensor) -> torch.Tensor:
        t = torch.rand(t.shape, generator=generator) if t.is_meta else t
        return t.to(like.device, like.dtype if t.is_floating_point() else t.dtype)

    args, kwargs = tree_map_only(torch.Tensor, real, (run.args, run.kwargs))
    devices = [like.device] if like.is_cuda else []
    # TensorFloat-32 would deviate by more than the tolerance.
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
    with torch.random.fork_rng(devices=devices), torch.no_grad(), exact:
        torch.manual_seed(0)
        try:
            return [t.clone() for t in _tensors(net(*args, **kwargs))]
        except Exception as error:  # Arbitrary networks may raise anything on random inputs.
            raise ConvzooError(
                f"{type(net).__name__} failed on random inputs, so the fold cannot be checked ({one_line(error)})."
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
                "random image), because it uses a convolution's output in a way that is not visible. It is unchanged; "
                "do not fold its BatchNorms."
            )


def _tensors(value: Any, depth: int = 6) -> list[torch.Tensor]:
    """Returns the tensors inside any value that a network returns: dicts, lists, dataclasses, objects."""
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


def _find_pairs(run: Run) -> list[tuple[str, str]]:
    """Returns the names of each convolution and of the BatchNorm to fold into it."""
    kernels.restore(run.net)
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
    """A convolution's output and its readers: BatchNorms, and None for anything else."""

    by: nn.Module
    tensor: weakref.ref[torch.Tensor]
    readers: list[nn.Module | None]


class _Flow(TorchDispatchMode):
    """Records which convolution's output is read by one BatchNorm and by nothing else."""

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()
        self._running = running
        self._made: list[_Made] = []
        self._known: dict[int, _Made] = {}

    def read(self, tensors: Iterable[object], by: nn.Module | None = None) -> None:
        """Records that values are read, by a BatchNorm or (None) by anything else."""
        for tensor in tensors:
            made = self._known.get(id(tensor))
            # Python reuses the id of a freed tensor.
            if made is not None and made.tensor() is tensor:
                made.readers.append(by)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Returns (convolution, BatchNorm) pairs. To be called after the run.

        An output that is still alive then is stored somewhere (an attribute, a list, a hook), so it counts as read.
        """
        if any(made.tensor() is not None for made in self._made):
            gc.collect()
        alone = [m for m in self._made if m.tensor() is None and len(m.readers) == 1]
        return [(m.by, m.readers[0]) for m in alone if m.readers[0] is not None]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        normalises = func.overloadpacket in (aten.native_batch_norm, aten.cudnn_batch_norm)
        for i, leaf in enumerate(tree_leaves((args, kwargs))):
            self.read([leaf], self._running[-1] if normalises and i == 0 else None)
        out = shapes_only(func, args, kwargs or {})
        if func.overloadpacket is aten.convolution:
            made = _Made(self._running[-1], weakref.ref(out), [])
            self._made.append(made)
            self._known[id(out)] = made
        return out
