"""Describes a logical convolution, which every conv kind realises in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from timm.layers import Conv2dSame
from torch import nn

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvSpec:
    """One logical k×k convolution C→C′.

    Attributes:
        padding: Per axis, or PyTorch's ``"same"`` / ``"valid"``.
        tf_same: TensorFlow's "same" padding, which depends on the input size (timm's ``Conv2dSame``).
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    padding_mode: str = "zeros"
    tf_same: bool = False
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSpec:
        """Returns the specification of an existing convolution."""
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            isinstance(conv, Conv2dSame),
            conv.weight.device,
            conv.weight.dtype,
        )

    def but(self, **changes: object) -> ConvSpec:
        """Returns a copy with some fields changed."""
        return replace(self, **changes)

    def axis(self, axis: int, **changes: object) -> ConvSpec:
        """Returns the part of this convolution along one axis (0: k×1, 1: 1×k)."""

        def along(pair: Pair, other: int) -> Pair:
            return (pair[0], other) if axis == 0 else (other, pair[1])

        padding = self.padding if isinstance(self.padding, str) else along(self.padding, 0)
        return self.but(
            kernel_size=along(self.kernel_size, 1),
            stride=along(self.stride, 1),
            dilation=along(self.dilation, 1),
            padding=padding,
            **changes,
        )

    def pointwise(self, **changes: object) -> ConvSpec:
        """Returns a 1×1 convolution with stride 1 and one group."""
        return self.but(
            kernel_size=(1, 1), stride=(1, 1), dilation=(1, 1), padding=(0, 0), groups=1, tf_same=False, **changes
        )

    @property
    def area(self) -> int:
        """Number of positions of the kernel: k_h·k_w."""
        return math.prod(self.kernel_size)

    @property
    def params(self) -> int:
        """Number of parameters: k_h·k_w·C·C′/g, plus C′ if there is a bias."""
        weights = math.prod(self.kernel_size) * self.in_channels * self.out_channels // self.groups
        return weights + self.out_channels * self.bias

    def conv(self) -> nn.Conv2d:
        """Makes the convolution, initialised like the networks of the zoo (He et al. 2015, fan-out).

        ``std = sqrt(2·g / (k²·C′))``, which unlike ``nn.init.kaiming_normal_(mode="fan_out")`` accounts for groups.
        """
        conv = (Conv2dSame if self.tf_same else nn.Conv2d)(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
            device=self.device,
            dtype=self.dtype,
            **({} if self.tf_same else {"padding_mode": self.padding_mode}),
        )
        fan_out = math.prod(self.kernel_size) * self.out_channels / self.groups
        nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv
