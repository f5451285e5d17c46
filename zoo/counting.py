"""What a network costs, counted without running it: parameters, MACs, activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """The exact cost of a network for one image.

    Attributes:
        params: All parameters.
        params_trainable: Those that require a gradient.
        macs: Multiply-adds of the forward pass: convolutions, linear layers and matrix products. One MAC is two FLOPs.
        activations: Output elements of all convolutions and linear layers (Radosavovic et al. 2020, "activations").
        image_size: (H, W) that ``macs`` and ``activations`` hold for.
    """

    params: int
    params_trainable: int
    macs: int
    activations: int
    image_size: tuple[int, int]

    @property
    def flops(self) -> int:
        """Two per MAC."""
        return 2 * self.macs


def cost(net: nn.Module, image_size: int | tuple[int, int] = 224, in_chans: int = 3) -> Cost:
    """Counts a network's cost on the meta device: exact, and it neither computes nor needs memory.

    Args:
        net: Any network that takes (N, in_chans, H, W). It is left as it is, its weights and mode included.
        image_size: H = W, or (H, W).
        in_chans: Channels of the image.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    params = list(net.parameters())
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    on_meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    dtype = next((p.dtype for p in params if p.is_floating_point()), torch.float32)
    image = torch.empty(1, in_chans, height, width, device="meta", dtype=dtype)
    with _eval_mode(net), torch.no_grad(), _Counter() as counter:
        torch.func.functional_call(net, on_meta, (image,))
    return Cost(
        params=sum(p.numel() for p in params),
        params_trainable=sum(p.numel() for p in params if p.requires_grad),
        macs=counter.macs,
        activations=counter.activations,
        image_size=(height, width),
    )


class _Counter(TorchDispatchMode):
    """Adds up MACs and activations of the operations that run below it."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.activations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op is aten.convolution:
            transposed = args[6]
            per_position = math.prod(args[1].shape[1:])
            self.macs += (args[0] if transposed else out).numel() * per_position
            self.activations += out.numel()
        elif op in (aten.mm, aten.addmm, aten.linear):
            left = args[1] if op is aten.addmm else args[0]
            self.macs += out.numel() * left.shape[-1]
            self.activations += out.numel()
        elif op in (aten.bmm, aten.baddbmm):
            left = args[1] if op is aten.baddbmm else args[0]
            self.macs += out.numel() * left.shape[-1]
        elif "scaled_dot_product" in op.__name__:
            query, key, value = args[:3]
            self.macs += query.numel() * key.shape[-2] + query.shape[:-1].numel() * key.shape[-2] * value.shape[-1]
        return out


@contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    """Eval mode, module by module, and back: a network may be partly frozen."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
