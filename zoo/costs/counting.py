"""What a network costs, counted without running it: parameters, MACs, activations, memory; as a whole and per layer."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo.costs.mac_counter import ProductCounter
from zoo.costs.repeats import Repeats
from zoo.errors import choose
from zoo.inputs import Run, call_of, try_inputs
from zoo.meta import watching

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Cost:
    """The exact cost of a network for one image.

    Attributes:
        params: All parameters.
        params_trainable: Those that require a gradient.
        macs: Multiply-adds of the forward pass: convolutions, linear layers and matrix products. One MAC is two FLOPs.
        train_macs: Multiply-adds of forward and backward pass: about 3 × ``macs``. The gradient with respect to the
            image is not needed, so the first convolution costs twice its forward MACs; frozen weights cost no gradient.
        activations: Output elements of all convolutions and linear layers (Radosavovic et al. 2020, "activations").
        image_size: (H, W) that MACs and activations hold for; None for inputs that are no images.
        uncounted: Operators of unknown kind, which are not in the counts, with the number of calls: ``mylib::scan ×2``.
            `register_macs` teaches the zoo what they cost.
    """

    params: int
    params_trainable: int
    macs: int
    train_macs: int
    activations: int
    image_size: tuple[int, int] | None
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Two per MAC."""
        return 2 * self.macs

    @property
    def metrics(self) -> dict[str, int]:
        """Under the names of a run's metrics; ``cost/uncounted`` (calls) only where something was not counted."""
        counts = {f"cost/{key}": getattr(self, key) for key in ("params", "macs", "activations")}
        calls = sum(int(text.rpartition("×")[2]) for text in self.uncounted)
        return counts | ({"cost/uncounted": calls} if calls else {})

    def weight_bytes(self, dtype: str = "fp32") -> int:
        """Memory of all parameters in bytes, without buffers (BatchNorm's statistics) and quantisation scales.

        Args:
            dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.

        Raises:
            ConvzooError: Another dtype.
        """
        return self.params * WEIGHT_BYTES[choose("dtype", dtype, WEIGHT_BYTES)]


@dataclass
class LayerCost:
    """The share of one module in a network's `Cost`, without that of the modules inside it.

    Attributes:
        name: The module's name in the network, ``""`` for the network itself.
        kind: What it is, such as ``Conv2d 3×3 g=32 s=2``.
        output_shape: Of one image, without the batch dimension; None where it did not run or gives out no tensor.
        params, params_trainable, macs, train_macs, activations: As in `Cost`. A module that runs several times has the
            sum; a parameter that several modules share counts for the first one.
        uncounted: As in `Cost`, of this module's own.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None = None
    params: int = 0
    params_trainable: int = 0
    macs: int = 0
    train_macs: int = 0
    activations: int = 0
    uncounted: tuple[str, ...] = ()


def cost(
    net: nn.Module,
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    inputs: Any = None,
    *,
    repeats: Repeats | None = None,
) -> Cost:
    """Counts a network's cost on the meta device: exact, and it neither computes nor needs memory.

    A network that needs values (``if x.max() > 1``, ``.item()``, a detector that chooses boxes) is run with real
    tensors instead, on one image of random numbers. What is of unknown kind, and so not counted, is in ``uncounted``
    and in a warning.

    Args:
        net: Any network that takes (N, in_chans, H, W). It is left as it is, its weights and mode included.
        image_size: H = W, or (H, W).
        in_chans: Channels of the image.
        inputs: What the network takes instead of such an image: a tensor, a tuple of arguments, or a dict of named
            ones. The counts are of all that is in them; give a batch of one.
        repeats: Counts of modules that came before, for a weightless network that may be changed by the run.

    Raises:
        UnfitError: It could not be run; the text has the network's own words, and sizes that would do.
    """
    layers = _count_layers(net, image_size, in_chans, inputs, repeats)
    counted = Cost(
        params=sum(layer.params for layer in layers),
        params_trainable=sum(layer.params_trainable for layer in layers),
        macs=sum(layer.macs for layer in layers),
        train_macs=sum(layer.train_macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        image_size=_pair(image_size) if inputs is None else _size_of(inputs),
        uncounted=_texts(sum((_calls(layer.uncounted) for layer in layers), Counter())),
    )
    if counted.uncounted:
        warnings.warn(
            f"not in the MACs, as nobody knows what they cost: {', '.join(counted.uncounted)}. "
            "zoo.register_macs(op, formula) says it.",
            stacklevel=2,
        )
    return counted


def layer_costs(
    net: nn.Module, image_size: int | tuple[int, int] = 224, in_chans: int = 3, inputs: Any = None
) -> list[LayerCost]:
    """Counts a network's cost module by module. The sums over the list are exactly those of `cost`.

    Args:
        net, image_size, in_chans, inputs: As for `cost`.

    Returns:
        The modules that have parameters of their own or compute products, in the order in which the network has them.

    Raises:
        UnfitError: As `cost` does.
    """
    return _count_layers(net, image_size, in_chans, inputs)


def _count_layers(
    net: nn.Module,
    image_size: int | tuple[int, int],
    in_chans: int,
    inputs: Any,
    repeats: Repeats | None = None,
) -> list[LayerCost]:
    size = _pair(image_size)
    # Autograd says which operands need a gradient, so it has to be on, whatever mode the caller is in.
    with torch.inference_mode(False), torch.enable_grad():
        layers = None if repeats is None else _count_repeats(net, size, in_chans, repeats)
        if layers is None:
            layers = try_inputs(net, _count, size, in_chans, inputs, batch=1)
    return [layer for layer in layers if layer.params or layer.macs or layer.uncounted]


def _count_repeats(net: nn.Module, size: tuple[int, int], in_chans: int, repeats: Repeats) -> list[LayerCost] | None:
    """Counts the network itself instead of a copy; None where it does not run so, for whatever reason."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    image = torch.empty((1, in_chans, *size), dtype=dtype, device="meta")
    try:
        return _count(Run(net, (image,)), repeats)
    except Exception:  # The slower way says what is wrong.
        return None


def _count(run: Run, repeats: Repeats | None = None) -> list[LayerCost]:
    """Adds every product of a run to the innermost module that it happens in; with ``repeats``, what a module counted
    before to that module as a whole."""
    layers = {module: LayerCost(name, _kind(module)) for name, module in run.net.named_modules()}
    _add_params(layers)
    running: list[LayerCost] = []
    unknown: dict[int, Counter[str]] = {}

    def enter(module: nn.Module, args: object) -> None:
        if module in layers:
            running.append(layers[module])

    def leave(module: nn.Module, args: object, output: object) -> None:
        if module in layers:
            running.pop().output_shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else None

    def count(macs: int, train_macs: int, activations: int) -> None:
        layer = running[-1]
        layer.macs += macs
        layer.train_macs += train_macs
        layer.activations += activations

    def name(op: str) -> None:
        unknown.setdefault(id(running[-1]), Counter())[op] += 1

    with watching(enter, leave), ExitStack() as stack:
        if repeats is not None:
            count, name = stack.enter_context(repeats.replayed(run.net, count, name))
        run(ProductCounter(count, name))
    for layer in layers.values():
        layer.uncounted = _texts(unknown.get(id(layer), Counter()))
    return list(layers.values())


def _add_params(layers: dict[nn.Module, LayerCost]) -> None:
    seen = set()
    for module, layer in layers.items():
        for p in module._parameters.values():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                layer.params += p.numel()
                layer.params_trainable += p.numel() * p.requires_grad


def _texts(calls: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{name} ×{n}" for name, n in sorted(calls.items()))


def _calls(texts: tuple[str, ...]) -> Counter[str]:
    return Counter({name: int(n) for name, _, n in (text.rpartition(" ×") for text in texts)})


def _size_of(inputs: Any) -> tuple[int, int] | None:
    tensors = [t for t in tree_leaves(call_of(inputs)) if isinstance(t, torch.Tensor) and t.ndim >= 3]
    return tuple(tensors[0].shape[-2:]) if tensors else None


def _kind(module: nn.Module) -> str:
    """``Conv2d 3×3 g=32 s=2``; for all but convolutions the name of the class."""
    kind = type(module).__name__
    if not isinstance(module, nn.modules.conv._ConvNd):
        return kind
    kind += " " + "×".join(map(str, module.kernel_size))
    for letter, value in (("g", module.groups), ("s", module.stride), ("d", module.dilation)):
        values = sorted({value} if isinstance(value, int) else set(value))
        if values != [1]:
            kind += f" {letter}=" + "×".join(map(str, value if len(values) > 1 else values))
    return kind


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width
