"""The modules of a network whose work our own kernels do, swapped in place and back."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from zoo.kernels.call import DTYPES, call, channels_last
from zoo.kernels.depthwise import depthwise_conv2d
from zoo.kernels.gate import excite, squeeze
from zoo.kernels.library import load
from zoo.kernels.norm import ACTIVATIONS, batch_norm_act


def _cast(x: torch.Tensor) -> torch.Tensor:
    """The dtype that autocast would give a convolution's input."""
    cast = torch.is_autocast_enabled("cpu") and x.dtype in DTYPES
    return x.to(torch.get_autocast_dtype("cpu")) if cast else x


def _takes(x: torch.Tensor, channels: int, *weights: torch.Tensor | None) -> bool:
    """Whether the kernels can have these: images with that many channels, float32 weights, all in this memory.

    What is traced or compiled has no values yet; subclasses of Tensor (fake ones, among others) have none of their own.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or type(x) not in (torch.Tensor, nn.Parameter):
        return False
    fits = x.ndim == 4 and x.shape[1] == channels and x.numel() > 0 and x.device.type == "cpu" and x.dtype in DTYPES
    return fits and all(w is None or (w.dtype == torch.float32 and w.device.type == "cpu") for w in weights)


class FastDepthwise(nn.Conv2d):
    """One filter a channel, with our kernels."""

    stock = nn.Conv2d

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        one_each = conv.groups == conv.in_channels == conv.out_channels > 1
        if not one_each or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            return False
        # More padding than the kernel reaches over makes outputs of nothing but zeros.
        axes = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
        return all(padding <= dilation * (kernel - 1) for padding, dilation, kernel in axes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _cast(x) if x.device.type == "cpu" else x
        if not _takes(x, self.in_channels, self.weight):
            return super().forward(x)
        out = depthwise_conv2d(x, self.weight, self.stride, self.padding, self.dilation)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(1, -1, 1, 1)


@functools.cache
def _unseen(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many taps at each end of a kernel's axis see nothing but padding, on a map of that size."""
    outputs = range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    used = [
        tap for tap in range(kernel) if any(0 <= o * stride - padding + tap * dilation < size for o in outputs)
    ] or range(kernel)
    return min(used[0], kernel - 1 - used[-1], padding // dilation)


class TrimmedConv(nn.Conv2d):
    """A convolution without the taps that see nothing but padding, as a 3×3 kernel's border does on a map of one pixel.

    The same values with less work. And oneDNN 3.13 leaves the gradients of such taps unwritten in bfloat16, at stride 2
    and for larger kernels: they are what was in memory, NaN among it, where they should be 0.
    """

    stock = nn.Conv2d

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        return zeros and max(conv.kernel_size) > 1 and conv.groups == 1

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
        return F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation)


class FastPointwise(nn.Conv2d):
    """A 1×1 convolution as the matrix product that it is: convolution kernels are slow on small maps."""

    stock = nn.Conv2d

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.device.type != "cpu":
            return super().forward(x)
        rows = channels_last(x).permute(0, 2, 3, 1)
        # Through (out, 1, 1, in), so that the gradient has the strides of a channels-last weight: DDP asks for them.
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(rows, weight, self.bias).permute(0, 3, 1, 2)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
LARGE = 1 << 16
"""Values from which on one pass over them saves more than it takes to call it, in evaluation."""


class FastBatchNorm(nn.BatchNorm2d):
    """BatchNorm with our kernels."""

    stock = nn.BatchNorm2d

    @staticmethod
    def fits(norm: nn.BatchNorm2d) -> bool:
        return norm.track_running_stats

    def _fast(self, x: torch.Tensor, activation: int) -> torch.Tensor | None:
        """None where the kernels cannot."""
        if not _takes(x, self.num_features, self.weight, self.bias, self.running_mean, self.running_var):
            return None
        if self.training:
            # A cumulative average, or one value a channel: PyTorch has the means, and the words.
            if self.momentum is None or x.numel() <= x.shape[1]:
                return None
            self.num_batches_tracked.add_(1)
            kept = (self.running_mean, self.running_var)
            return batch_norm_act(x, self.weight, self.bias, *kept, self.momentum, self.eps, activation)
        if torch.is_grad_enabled() or x.numel() < LARGE:
            return None
        scale = (self.running_var + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - self.running_mean * scale
        x = channels_last(x)
        out = torch.empty_like(x)
        call("norm_apply", x, activation, x, out, torch.stack([scale, shift]), x.numel() // x.shape[1], x.shape[1])
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self._fast(x, 0)
        return super().forward(x) if out is None else out


class FastBatchNormAct(BatchNormAct2d, FastBatchNorm):
    """timm's BatchNorm with an activation, in one."""

    stock = BatchNormAct2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activation = ACTIVATIONS.get(type(self.act))
        if type(self.drop) is not nn.Identity or any(getattr(self.act, hooks) for hooks in HOOKS):
            return BatchNormAct2d.forward(self, x)
        out = self._fast(x, activation or 0)
        if out is None:
            return BatchNormAct2d.forward(self, x)
        return out if activation is not None else self.act(out)


class FastSqueezeExcite(SqueezeExcite):
    """The squeeze-and-excitation of timm's MBConv blocks."""

    stock = SqueezeExcite

    @staticmethod
    def fits(module: SqueezeExcite) -> bool:
        return True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _takes(x, self.conv_reduce.in_channels):
            return super().forward(x)
        means, x, link = squeeze(x)
        return excite(x, self.gate(self.conv_expand(self.act1(self.conv_reduce(means)))), link)


class FloatDepthwise(FastDepthwise):
    """One filter a channel in float32 whatever autocast says: for machines without a compiler."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return nn.Conv2d.forward(self, x)
        with torch.autocast("cpu", enabled=False):
            out = nn.Conv2d.forward(self, x.float())
        return _cast(out)


COMPILED = (FastSqueezeExcite, FastDepthwise, FastPointwise, TrimmedConv, FastBatchNorm, FastBatchNormAct)
UNCOMPILED = (FloatDepthwise, FastPointwise, TrimmedConv)
"""What needs no compiler."""


def speed_up(net: nn.Module) -> int:
    """Gives our kernels the work of every module that they can do, in place.

    Parameters, buffers, names and hooks stay: the state_dict is the same. On another device than the CPU, and for what
    the kernels cannot do, such a module computes what it did before.

    Returns:
        How many modules there are.
    """
    return _swap(net, UNCOMPILED if load() is None else COMPILED)


def trim(net: nn.Module) -> int:
    """Gives `TrimmedConv` its work, in place, and leaves all else to PyTorch.

    Returns:
        How many modules there are.
    """
    return _swap(net, (TrimmedConv,))


def _swap(net: nn.Module, usable: tuple[type[nn.Module], ...]) -> int:
    found = 0
    for module in net.modules():
        fast = next((f for f in usable if type(module) is f.stock and f.fits(module)), None)
        if fast is not None:
            module.__class__ = fast
            found += 1
    return found


def restore(net: nn.Module) -> None:
    """Takes them out again."""
    for module in net.modules():
        if type(module) in (*COMPILED, *UNCOMPILED):
            module.__class__ = type(module).stock
