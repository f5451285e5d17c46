"""Squeeze-and-excitation's two ends on a CPU with kernels of our own: the mean over positions, and the gate.

The two belong together: `squeeze` gives the means and hands the data on to `excite`. The gradient of the data is then
made in one pass, at the end, of what the gate and the means give back.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zoo.kernels.call import call, channels_last


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return len(x), x.shape[2] * x.shape[3], x.shape[1]


class _Link:
    """What `_Excite` leaves for `_Squeeze`'s backward: the gate."""

    gate: torch.Tensor


class _Squeeze(Function):
    @staticmethod
    def forward(ctx, x, link):
        ctx.link = link
        x = channels_last(x)
        means = torch.empty(x.shape[:2])
        call("gate_mean", x, x, means, *_sizes(x))
        return means[:, :, None, None].to(x.dtype), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, means_gradient, gradient):
        images, positions, channels = _sizes(gradient)
        plus = means_gradient.float().view(images, channels) / positions
        dx = torch.empty_like(gradient)
        call("gate_scale", gradient, gradient, dx, ctx.link.gate, plus, images, positions, channels)
        return dx, None


class _Excite(Function):
    @staticmethod
    def forward(ctx, x, gate, link):
        # Detached: the link lives in the graph, and a gate that held its own graph would never be freed.
        link.gate = gate.detach().float().reshape(x.shape[:2]).contiguous()
        ctx.save_for_backward(x)
        ctx.dtype = gate.dtype
        out = torch.empty_like(x)
        call("gate_scale", x, x, out, link.gate, None, *_sizes(x))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gradient = channels_last(gradient.to(x.dtype))
        sums = torch.empty(x.shape[:2])
        call("gate_dot", x, x, gradient, sums, *_sizes(x))
        # Not the gradient of x yet: `_Squeeze` multiplies it by the gate when it adds the means' share.
        return gradient, sums[:, :, None, None].to(ctx.dtype), None


def squeeze(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Link]:
    """(N, C, H, W) → its means (N, C, 1, 1), the data and the link for `excite`, which must get both."""
    link = _Link()
    return *_Squeeze.apply(x, link), link


def excite(x: torch.Tensor, gate: torch.Tensor, link: _Link) -> torch.Tensor:
    """The data (N, C, H, W) times the gate (N, C, 1, 1)."""
    return _Excite.apply(x, gate, link)
