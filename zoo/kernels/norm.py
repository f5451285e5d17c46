"""Fused BatchNorm and activation on a CPU, with custom kernels."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from timm.layers.activations import HardSwish
from timm.layers.activations import Swish as TimmSwish
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zoo.kernels.library import call, channels_last

ACTIVATIONS: dict[type[nn.Module], int] = {
    nn.Identity: 0,
    nn.ReLU: 1,
    nn.ReLU6: 2,
    nn.SiLU: 3,
    TimmSwish: 3,
    nn.Hardswish: 4,
    HardSwish: 4,
}
"""Activations that the kernels support, by exact type → number in norm.cpp."""


class _Norm(ctypes.Structure):
    """Parameters of a BatchNorm; same layout as in norm.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "bias", "running_mean", "running_variance")]
    _fields_ += [("momentum", ctypes.c_double), ("epsilon", ctypes.c_double)]


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _BatchNormAct(Function):
    """Autograd function: normalises by the batch's statistics and updates the running ones in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: Any, eps: Any, activation: Any
    ) -> Any:
        x = channels_last(x)
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        norm = _Norm(*map(_address, (weight, bias, mean, variance)), momentum, eps)
        found = torch.empty(4, channels)
        out = torch.empty_like(x)
        call("norm_statistics", x, x, norm, found, rows, channels)
        call("norm_apply", x, activation, x, out, found, rows, channels)
        ctx.save_for_backward(x, found)
        ctx.activation = activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        x, found = ctx.saved_tensors
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        gradient = channels_last(gradient.to(x.dtype))
        dx, (dweight, dbias) = torch.empty_like(x), torch.empty(2, channels)
        call("norm_backward", x, ctx.activation, x, gradient, dx, found, dweight, dbias, rows, channels)
        wanted = ctx.needs_input_grad
        return dx, dweight if wanted[1] else None, dbias if wanted[2] else None, None, None, None, None, None


def batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    activation: int = 0,
) -> torch.Tensor:
    """`torch.nn.functional.batch_norm` in training mode, followed by an activation, on a CPU.

    Args:
        x: (N, C, H, W), float32 or bfloat16; more than one value per channel.
        weight, bias: (C,), float32; None: 1 and 0.
        running_mean, running_var: (C,), float32, updated in place; None: not tracked.
        momentum, eps: As in `nn.BatchNorm2d`.
        activation: A value of `ACTIVATIONS`.

    Returns:
        A tensor with the shape and dtype of ``x``, channels last in memory.
    """
    return _BatchNormAct.apply(x, weight, bias, running_mean, running_var, momentum, eps, activation)
