"""Counts the cost of a network on the meta device, in total and per layer: parameters, MACs, activations, memory."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo.costs.mac_counter import Count, ProductCounter
from zoo.costs.repeats import Repeats
from zoo.errors import choose
from zoo.image_size import ImageSize, Size
from zoo.inputs import Run, call_of, try_inputs
from zoo.meta import watching

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Cost:
    """The exact cost of a network for one image.

    Attributes:
        params: All parameters.
        params_trainable: Parameters that require a gradient.
        macs: Multiply-adds of the forward pass: convolutions, linear layers and matrix products. One MAC is two FLOPs.
        train_macs: Multiply-adds of the forward and backward pass: about 3 × ``macs``. The gradient with respect to the
            image is not needed, so the first convolution costs twice its forward MACs; frozen weights cost no gradient.
        activations: Output elements of all convolutions and linear layers (Radosavovic et al. 2020, "activations").
        image_size: (H, W) for which MACs and activations hold; None for inputs that are not images.
        uncounted: Unknown operators, which are not included in the counts, with their number of calls:
            ``mylib::scan ×2``. `register_macs` sets the cost of an operator.
    """

    params: int
    params_trainable: int
    macs: int
    train_macs: int
    activations: int
    image_size: ImageSize | None
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass: two per MAC."""
        return 2 * self.macs

    @property
    def metrics(self) -> dict[str, int]:
        """The counts under a run's metric names; ``cost/uncounted`` (calls) only if some operators were not counted."""
        counts = {f"cost/{key}": getattr(self, key) for key in ("params", "macs", "activations")}
        calls = sum(int(text.rpartition("×")[2]) for text in self.uncounted)
        return counts | ({"cost/uncounted": calls} if calls else {})

    def weight_bytes(self, dtype: str = "fp32") -> int:
        """Returns the memory of all parameters in bytes, without buffers (BatchNorm statistics) or quantisation scales.

        Args:
            dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.

        Raises:
            ConvzooError: Any other dtype.
        """
        return self.params * WEIGHT_BYTES[choose("dtype", dtype, WEIGHT_BYTES)]


@dataclass
class LayerCost:
    """One module's own share of a network's `Cost`, excluding its submodules.

    Attributes:
        name: The module's name in the network, ``""`` for the network itself.
        kind: Class and settings, such as ``Conv2d 3×3 g=32 s=2``.
        output_shape: For one image, without the batch dimension; None if the module did not run or does not return a
            tensor.
        params, params_trainable, macs, train_macs, activations: As in `Cost`, summed over all calls of the module. A
            shared parameter is counted in the first module that has it.
        uncounted: As in `Cost`, for this module only.
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
    image_size: Size = 224,
    in_chans: int = 3,
    inputs: Any = None,
    *,
    repeats: Repeats | None = None,
) -> Cost:
    """Counts a network's cost on the meta device: exactly, without computing or allocating tensors.

    A network whose control flow depends on values (``if x.max() > 1``, ``.item()``, a detector that selects boxes) runs
    with real tensors instead, on one random image. Unknown operators are not counted; they are listed in ``uncounted``
    and in a warning.

    Args:
        net: Any network that takes (N, in_chans, H, W). It is not changed; weights and mode stay the same.
        image_size: H = W, or (H, W).
        in_chans: Channels of the image.
        inputs: Inputs of a network that does not take such an image: a tensor, a tuple of arguments, or a dict of
            keyword arguments. The counts cover the whole batch, so pass a batch of one.
        repeats: Counts of modules from earlier calls. Only for a network without weights that the run may change.

    Raises:
        UnfitError: The network could not be run; the message has the network's own error and sizes that work.
    """
    layers, unknown = _count_layers(net, image_size, in_chans, inputs, repeats)
    counted = Cost(
        params=sum(layer.params for layer in layers),
        params_trainable=sum(layer.params_trainable for layer in layers),
        macs=sum(layer.macs for layer in layers),
        train_macs=sum(layer.train_macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        image_size=ImageSize.of(image_size) if inputs is None else _size_of(inputs),
        uncounted=_texts(unknown),
    )
    if counted.uncounted:
        warnings.warn(
            f"the MACs leave out operators of unknown cost: {', '.join(counted.uncounted)}. "
            "Set their cost with zoo.register_macs(op, formula).",
            stacklevel=2,
        )
    return counted


def layer_costs(net: nn.Module, image_size: Size = 224, in_chans: int = 3, inputs: Any = None) -> list[LayerCost]:
    """Counts a network's cost per module. The sums over the list equal the result of `cost` exactly.

    Args:
        net, image_size, in_chans, inputs: As for `cost`.

    Returns:
        The modules with parameters, MACs or unknown operators of their own, in the network's order.

    Raises:
        UnfitError: As for `cost`.
    """
    return _count_layers(net, image_size, in_chans, inputs)[0]


def _count_layers(
    net: nn.Module,
    image_size: Size,
    in_chans: int,
    inputs: Any,
    repeats: Repeats | None = None,
) -> tuple[list[LayerCost], list[str]]:
    """Returns the modules with a cost of their own, and the name of each unknown operation that ran."""
    size = ImageSize.of(image_size)
    # `requires_grad` of the operands decides about train_macs, so autograd must be on, whatever the caller's mode.
    with torch.inference_mode(False), torch.enable_grad():
        counted = None if repeats is None else _count_repeats(net, size, in_chans, repeats)
        layers, unknown = counted or try_inputs(net, _count, size, in_chans, inputs, batch=1)
    return [layer for layer in layers if layer.params or layer.macs or layer.uncounted], unknown


def _count_repeats(
    net: nn.Module, size: ImageSize, in_chans: int, repeats: Repeats
) -> tuple[list[LayerCost], list[str]] | None:
    """Counts the network itself instead of a copy; returns None if that fails for any reason."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    image = torch.empty((1, in_chans, *size), dtype=dtype, device="meta")
    try:
        return _count(Run(net, (image,)), repeats)
    except Exception:  # A network may raise anything; the slower way, which runs next, raises a clear error.
        return None


def _count(run: Run, repeats: Repeats | None = None) -> tuple[list[LayerCost], list[str]]:
    """Attributes every product of a run to the innermost running module.

    With ``repeats``, replayed counts are attributed to the replayed module as a whole.
    """
    layers = {module: LayerCost(name, _kind(module)) for name, module in run.net.named_modules()}
    _add_params(layers)
    running: list[LayerCost] = []
    unknown: list[tuple[LayerCost, str]] = []

    def enter(module: nn.Module, args: object) -> None:
        if module in layers:
            running.append(layers[module])

    def leave(module: nn.Module, args: object, output: object) -> None:
        if module in layers:
            running.pop().output_shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else None

    def count(one: Count) -> None:
        layer = running[-1]
        layer.macs += one.macs
        layer.train_macs += one.train_macs
        layer.activations += one.activations
        if one.unknown:
            unknown.append((layer, one.unknown))

    with watching(enter, leave), ExitStack() as stack:
        if repeats is not None:
            count = stack.enter_context(repeats.replayed(run.net, count))
        run(ProductCounter(count))
    for layer in {id(layer): layer for layer, _ in unknown}.values():
        layer.uncounted = _texts(op for holder, op in unknown if holder is layer)
    return list(layers.values()), [op for _, op in unknown]


def _add_params(layers: dict[nn.Module, LayerCost]) -> None:
    seen = set()
    for module, layer in layers.items():
        for p in module._parameters.values():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                layer.params += p.numel()
                layer.params_trainable += p.numel() * p.requires_grad


def _texts(ops: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name} ×{n}" for name, n in sorted(Counter(ops).items()))


def _size_of(inputs: Any) -> ImageSize | None:
    tensors = [t for t in tree_leaves(call_of(inputs)) if isinstance(t, torch.Tensor) and t.ndim >= 3]
    return ImageSize(*tensors[0].shape[-2:]) if tensors else None


def _kind(module: nn.Module) -> str:
    """Describes a convolution, such as ``Conv2d 3×3 g=32 s=2``; for any other module returns the class name."""
    kind = type(module).__name__
    if not isinstance(module, nn.modules.conv._ConvNd):
        return kind
    kind += " " + "×".join(map(str, module.kernel_size))
    for letter, value in (("g", module.groups), ("s", module.stride), ("d", module.dilation)):
        values = sorted({value} if isinstance(value, int) else set(value))
        if values != [1]:
            kind += f" {letter}=" + "×".join(map(str, value if len(values) > 1 else values))
    return kind
