"""Which operations multiply and add, and how often: the rules by which the zoo counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.meta import shapes_only

aten = torch.ops.aten

Operands = tuple[torch.Tensor, ...]


def _convolution(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    # A weight is (C′, C/g, k, k), or (C, C′/g, k, k) transposed: what it holds per row is what one position costs.
    image, weight, transposed = args[0], args[1], args[6]
    return (image if transposed else out).numel() * math.prod(weight.shape[1:]), (image, weight)


def _product(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    return out.numel() * args[0].shape[-1], args[:2]


def _product_and_sum(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    return _product(args[1:], out)


Rule = Callable[[tuple[Any, ...], torch.Tensor], tuple[int, Operands]]

LAYERS: dict[object, Rule] = {
    aten.convolution: _convolution,
    aten.mm: _product,
    aten.addmm: _product_and_sum,
    aten.linear: _product,
}
"""Convolutions and linear layers. What they give out counts as activations."""

PRODUCTS: dict[object, Rule] = {
    **LAYERS,
    aten.bmm: _product,
    aten.baddbmm: _product_and_sum,
}
"""Every operation that has MACs, and the rule that gives them with the two operands of the product. Attention is not
here: on the meta device torch composes it of two batched products."""


class ProductCounter(TorchDispatchMode):
    """Hands the counts of every product that runs below it to ``count(macs, train_macs, activations)``.

    The gradient of a product with respect to either operand is a product of the same size, for a convolution with any
    number of groups as for a matrix. So training costs the forward MACs once, and once more for each operand
    that needs a gradient: three times in the middle of a network, twice where the image comes in or the weights are
    frozen, once where both hold. (torch's own `FlopCounterMode` leaves the groups out of the weight's gradient.)
    """

    def __init__(self, count: Callable[[int, int, int], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        op = func.overloadpacket
        out = shapes_only(func, args, kwargs or {})
        if rule := PRODUCTS.get(op):
            macs, operands = rule(args, out)
            gradients = sum(operand.requires_grad for operand in operands)
            self._count(macs, macs * (1 + gradients), out.numel() if op in LAYERS else 0)
        return out
