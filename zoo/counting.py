"""What a network costs, counted without running it: parameters, MACs, activations, memory; as a whole and per layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from zoo.errors import choose
from zoo.meta import run_on_meta, structure, watching
from zoo.products import ProductCounter
from zoo.repeats import Repeats

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
        image_size: (H, W) that MACs and activations hold for.
    """

    params: int
    params_trainable: int
    macs: int
    train_macs: int
    activations: int
    image_size: tuple[int, int]

    @property
    def flops(self) -> int:
        """Two per MAC."""
        return 2 * self.macs

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
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None = None
    params: int = 0
    params_trainable: int = 0
    macs: int = 0
    train_macs: int = 0
    activations: int = 0


def cost(
    net: nn.Module,
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    *,
    repeats: Repeats | None = None,
) -> Cost:
    """Counts a network's cost on the meta device: exact, and it neither computes nor needs memory.

    Args:
        net: Any network that takes (N, in_chans, H, W). It is left as it is, its weights and mode included.
        image_size: H = W, or (H, W).
        in_chans: Channels of the image.
        repeats: What modules counted before, for a weightless network that may be left otherwise than it was.
    """
    if repeats is None:
        layers = layer_costs(net, image_size, in_chans)
    else:
        layers = _count_layers(net, image_size, in_chans, repeats)
    return Cost(
        params=sum(layer.params for layer in layers),
        params_trainable=sum(layer.params_trainable for layer in layers),
        macs=sum(layer.macs for layer in layers),
        train_macs=sum(layer.train_macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        image_size=_pair(image_size),
    )


def layer_costs(net: nn.Module, image_size: int | tuple[int, int] = 224, in_chans: int = 3) -> list[LayerCost]:
    """Counts a network's cost module by module. The sums over the list are exactly those of `cost`.

    Args:
        net, image_size, in_chans: As for `cost`.

    Returns:
        The modules that have parameters of their own or compute products, in the order in which the network has them.
    """
    return _count_layers(structure(net), image_size, in_chans)


def _count_layers(
    net: nn.Module, image_size: int | tuple[int, int], in_chans: int, repeats: Repeats | None = None
) -> list[LayerCost]:
    layers = {module: LayerCost(name, _kind(module)) for name, module in net.named_modules()}
    _add_params(layers)
    _run_on_meta(net, layers, image_size, in_chans, repeats)
    return [layer for layer in layers.values() if layer.params or layer.macs]


def _add_params(layers: dict[nn.Module, LayerCost]) -> None:
    seen = set()
    for module, layer in layers.items():
        for p in module._parameters.values():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                layer.params += p.numel()
                layer.params_trainable += p.numel() * p.requires_grad


def _run_on_meta(
    net: nn.Module,
    layers: dict[nn.Module, LayerCost],
    image_size: int | tuple[int, int],
    in_chans: int,
    repeats: Repeats | None,
) -> None:
    """Runs one image through the network and adds every product to the innermost module that it happens in; with
    ``repeats``, what a module counted before to that module as a whole."""
    running: list[LayerCost] = []

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

    # Autograd says which operands need a gradient, so it has to be on, whatever mode the caller is in.
    with watching(enter, leave), torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        if repeats is not None:
            count = stack.enter_context(repeats.replayed(net, count))
        run_on_meta(net, (1, in_chans, *_pair(image_size)), ProductCounter(count))


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
