"""Both ends of squeeze-and-excitation on a CPU with custom kernels: the mean over positions, and the gate.

They belong together: `squeeze` computes the means and passes the data on to `excite`. That way, the data's gradient is
computed in one pass, from the gradients of the gate and of the means.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zoo.kernels.library import call, channels_last


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return len(x), x.shape[2] * x.shape[3], x.shape[1]


class _Link:
    """Passes the gate from `_Excite` to the backward pass of `_Squeeze`."""

    gate: torch.Tensor


class _Squeeze(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, link: Any) -> Any:
        ctx.link = link
        x = channels_last(x)
        means = torch.empty(x.shape[:2])
        call("gate_mean", x, x, means, *_sizes(x))
        return means[:, :, None, None].to(x.dtype), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, means_gradient: Any, gradient: Any) -> Any:
        images, positions, channels = _sizes(gradient)
        plus = means_gradient.float().view(images, channels) / positions
        dx = torch.empty_like(gradient)
        call("gate_scale", gradient, gradient, dx, ctx.link.gate, plus, images, positions, channels)
        return dx, None


class _Excite(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, gate: Any, link: Any) -> Any:
        # Detached: the graph holds the link, so a gate that holds the graph would be a cycle that is never freed.
        link.gate = gate.detach().float().reshape(x.shape[:2]).contiguous()
        ctx.save_for_backward(x)
        ctx.dtype = gate.dtype
        out = torch.empty_like(x)
        call("gate_scale", x, x, out, link.gate, None, *_sizes(x))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        gradient = channels_last(gradient.to(x.dtype))
        sums = torch.empty(x.shape[:2])
        call("gate_dot", x, x, gradient, sums, *_sizes(x))
        # Not yet the gradient of x: `_Squeeze` multiplies it by the gate and adds the means' part, in one pass.
        return gradient, sums[:, :, None, None].to(ctx.dtype), None


def squeeze(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Link]:
    """(N, C, H, W) → the means (N, C, 1, 1), and the data and the link, both of which must be passed to `excite`."""
    link = _Link()
    return *_Squeeze.apply(x, link), link


def excite(x: torch.Tensor, gate: torch.Tensor, link: _Link) -> torch.Tensor:
    """Multiplies the data (N, C, H, W) by the gate (N, C, 1, 1)."""
    return _Excite.apply(x, gate, link)
