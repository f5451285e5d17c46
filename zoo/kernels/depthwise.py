"""Depthwise convolution on a CPU, with custom kernels for its gradients."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zoo.kernels.library import call, channels_last

_FIELDS = ("n", "h", "w", "c", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")


class _Geometry(ctypes.Structure):
    """Sizes of a convolution; same layout as in depthwise.cpp."""

    _fields_ = [(name, ctypes.c_long) for name in _FIELDS]


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Returns the length of an axis after a convolution."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@functools.lru_cache(4096)
def _geometry(shape: tuple[int, ...], *window: tuple[int, int]) -> _Geometry:
    n, c, *sizes = shape
    out = [output_size(*axis) for axis in zip(sizes, *window, strict=True)]
    return _Geometry(n, *sizes, c, *out, *(value for pair in window for value in pair))


class _Depthwise(Function):
    """Autograd function: data in float32 or bfloat16, weight in float32; gradients are accumulated in float32."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any) -> Any:
        x, weight = channels_last(x), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.geometry = _geometry(tuple(x.shape), tuple(weight.shape[2:]), stride, padding, dilation)
        # Only the gradients are slow in PyTorch; its forward pass is not.
        return channels_last(F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, len(weight)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> Any:
        (x, weight), g = ctx.saved_tensors, ctx.geometry
        gradient, dx, dw = channels_last(gradient.to(x.dtype)), None, None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            call("depthwise_input_gradient", x, gradient, weight, dx, g)
        if ctx.needs_input_grad[1]:
            dw = torch.empty_like(weight)
            call("depthwise_weight_gradient", x, x, gradient, dw, g)
        return dx, dw, None, None, None


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> torch.Tensor:
    """`torch.nn.functional.conv2d` with one filter per channel and no bias, on a CPU.

    Args:
        x: (N, C, H, W), float32 or bfloat16.
        weight: (C, 1, k, l), float32.
        stride, padding, dilation: For (height, width).

    Returns:
        (N, C, H', W') in the dtype of ``x``, channels last in memory.
    """
    return _Depthwise.apply(x, weight, stride, padding, dilation)
