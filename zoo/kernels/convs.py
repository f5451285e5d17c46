"""Drop-in replacements of `nn.Conv2d`: with custom kernels, or with a faster formulation in PyTorch."""

from __future__ import annotations

import copy
import functools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from zoo.kernels.depthwise import depthwise_conv2d
from zoo.kernels.library import DTYPES, channels_last, fits_kernels


def _cast(x: torch.Tensor) -> torch.Tensor:
    """Casts a convolution's input as CPU autocast would."""
    cast = torch.is_autocast_enabled("cpu") and x.dtype in DTYPES
    return x.to(torch.get_autocast_dtype("cpu")) if cast else x


def _within_reach(conv: Any) -> bool:
    """Returns whether every output sees the image: with more padding, border outputs see only zeros."""
    axes = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    return all(padding <= dilation * (kernel - 1) for padding, dilation, kernel in axes)


class Swapped(nn.Module):
    """Base of modules with a faster ``forward``, swapped in by replacing the class ``stock`` of an existing module."""

    stock: ClassVar[type[nn.Module]]

    @staticmethod
    def fits(module: Any) -> bool:
        """Returns whether a module of the class ``stock`` can be swapped."""
        return True

    def __prepare_scriptable__(self) -> nn.Module:
        """Returns the stock module for `torch.jit.script`, which cannot compile the kernels."""
        plain: nn.Module = copy.copy(self)
        plain.__class__ = self.stock
        return plain


class SwappedConv(Swapped, nn.Conv2d):
    """Base of convolutions, whose padding is known in numbers."""

    stock = nn.Conv2d
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


class FastDepthwise(SwappedConv):
    """Depthwise convolution (one filter per channel) with custom kernels."""

    @staticmethod
    def fits(conv: Any) -> bool:
        one_each = conv.groups == conv.in_channels == conv.out_channels > 1
        if not one_each or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            return False
        return _within_reach(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _cast(x) if x.device.type == "cpu" else x
        if not fits_kernels(x, self.in_channels, self.weight):
            return super().forward(x)
        out = depthwise_conv2d(x, self.weight, self.stride, self.padding, self.dilation)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(1, -1, 1, 1)


@functools.cache
def _unseen(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Returns the number of taps at each end of a kernel's axis that see only padding, on a map of that size."""
    outputs = range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    used = [
        tap for tap in range(kernel) if any(0 <= o * stride - padding + tap * dilation < size for o in outputs)
    ] or range(kernel)
    return min(used[0], kernel - 1 - used[-1], padding // dilation)


class TrimmedConv(SwappedConv):
    """Convolution without the taps that see only padding, such as the border of a 3×3 kernel on a 1×1 map.

    Gives the same values with less work. It also avoids a bug: oneDNN 3.13 does not write the bfloat16 gradients of
    such taps at stride 2 and for larger kernels. They should be 0, but are uninitialised memory, including NaN.
    """

    @staticmethod
    def fits(conv: Any) -> bool:
        zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        if not zeros or max(conv.kernel_size) == 1:
            return False
        return conv.groups == 1 or (max(conv.padding) > 0 and _within_reach(conv))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return super().forward(x)
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        down, across = (_unseen(*axis) for axis in axes)
        if not down and not across:
            return super().forward(x)
        (high, wide), (top, left), (step, stride) = self.kernel_size, self.padding, self.dilation
        weight = self.weight[:, :, down : high - down, across : wide - across]
        padding = (top - down * step, left - across * stride)
        return F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)


class FastPointwise(SwappedConv):
    """1×1 convolution as a matrix product, since convolution kernels are slow on small maps."""

    @staticmethod
    def fits(conv: Any) -> bool:
        return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.device.type != "cpu":
            return super().forward(x)
        rows = channels_last(x).permute(0, 2, 3, 1)
        # Through (out, 1, 1, in), so that the gradient has the strides of a channels-last weight, which DDP expects.
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(rows, weight, self.bias).permute(0, 3, 1, 2)


class FloatDepthwise(FastDepthwise):
    """Depthwise convolution in float32 even under autocast, for machines without a C++ compiler."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return nn.Conv2d.forward(self, x)
        with torch.autocast("cpu", enabled=False):
            out = nn.Conv2d.forward(self, x.float())
        return _cast(out)
