"""Swaps modules of a network for faster ones in place, and back.

Here are BatchNorm and squeeze-and-excitation; convs.py has the convolutions.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from zoo.kernels.convs import FastDepthwise, FastPointwise, FloatDepthwise, Swapped, TrimmedConv
from zoo.kernels.gate import excite, squeeze
from zoo.kernels.library import call, channels_last, fits_kernels, load
from zoo.kernels.norm import ACTIVATIONS, batch_norm_act

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
LARGE = 1 << 16
"""Elements above which, in eval mode, the kernel saves more time than its call costs."""


class FastBatchNorm(Swapped, nn.BatchNorm2d):
    """BatchNorm with custom kernels."""

    stock: ClassVar[type[nn.Module]] = nn.BatchNorm2d

    @staticmethod
    def fits(norm: nn.BatchNorm2d) -> bool:
        return norm.track_running_stats

    def _fast(self, x: torch.Tensor, activation: int) -> torch.Tensor | None:
        """Runs the kernels; returns None for inputs that they do not support or do not speed up."""
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or variance is None or batches is None:
            return None
        if not fits_kernels(x, self.num_features, self.weight, self.bias, mean, variance):
            return None
        if self.training:
            # PyTorch computes the cumulative average, and raises a clear error for one value per channel.
            if self.momentum is None or x.numel() <= x.shape[1]:
                return None
            batches.add_(1)
            return batch_norm_act(x, self.weight, self.bias, mean, variance, self.momentum, self.eps, activation)
        if torch.is_grad_enabled() or x.numel() < LARGE:
            return None
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        x = channels_last(x)
        out = torch.empty_like(x)
        call("norm_apply", x, activation, x, out, torch.stack([scale, shift]), x.numel() // x.shape[1], x.shape[1])
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self._fast(x, 0)
        return super().forward(x) if out is None else out


class FastBatchNormAct(BatchNormAct2d, FastBatchNorm):
    """timm's BatchNorm with activation, fused."""

    stock = BatchNormAct2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activation = ACTIVATIONS.get(type(self.act))
        if type(self.drop) is not nn.Identity or any(getattr(self.act, hooks) for hooks in HOOKS):
            return BatchNormAct2d.forward(self, x)
        out = self._fast(x, activation or 0)
        if out is None:
            return BatchNormAct2d.forward(self, x)
        return out if activation is not None else self.act(out)


class FastSqueezeExcite(Swapped, SqueezeExcite):
    """Squeeze-and-excitation of timm's MBConv blocks, with custom kernels."""

    stock = SqueezeExcite

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not fits_kernels(x, self.conv_reduce.in_channels):
            return super().forward(x)
        means, x, link = squeeze(x)
        return excite(x, self.gate(self.conv_expand(self.act1(self.conv_reduce(means)))), link)


COMPILED: tuple[type[Swapped], ...] = (
    FastSqueezeExcite,
    FastDepthwise,
    FastPointwise,
    TrimmedConv,
    FastBatchNorm,
    FastBatchNormAct,
)
UNCOMPILED: tuple[type[Swapped], ...] = (FloatDepthwise, FastPointwise, TrimmedConv)
"""Replacements that need no compiler."""


def speed_up(net: nn.Module) -> int:
    """Swaps every module that has a faster version, in place.

    Parameters, buffers, names, hooks and the state_dict stay the same. On any device but the CPU, and for inputs that
    the kernels do not support, a swapped module runs PyTorch's code.

    Returns:
        The number of swapped modules.
    """
    return _swap(net, UNCOMPILED if load() is None else COMPILED)


def trim(net: nn.Module) -> int:
    """Swaps in `TrimmedConv` only, in place.

    Returns:
        The number of swapped modules.
    """
    return _swap(net, (TrimmedConv,))


def _swap(net: nn.Module, usable: tuple[type[Swapped], ...]) -> int:
    found = 0
    for module in net.modules():
        fast = next((f for f in usable if type(module) is f.stock and f.fits(module)), None)
        if fast is not None:
            module.__class__ = fast
            found += 1
    return found


def restore(net: nn.Module) -> None:
    """Undoes `speed_up` and `trim`, in place."""
    for module in net.modules():
        fast = type(module)
        if issubclass(fast, Swapped):
            module.__class__ = fast.stock
