"""Blueprint: a pointwise convolution, then a depthwise one."""

import torch
from torch import nn

from zoo.convs.between import Between, nothing
from zoo.convs.spec import ConvSpec


class Blueprint(nn.Module):
    """Blueprint-separable convolution, unconstrained (BSConv-U): 1×1 across channels, then k×k per filter.

    Parameters: r·(C·C′ + k²·C′). With r = 1 each filter is one k×k blueprint, scaled per input channel; with r > 1 it
    is the sum of r of them. Source: Haase & Amthor 2020, section 3.1.

    Args:
        spec: The logical convolution. Groups are given up.
        rank: r, the blueprints per filter.
    """

    def __init__(self, spec: ConvSpec, between: Between = nothing, *, rank: int = 1) -> None:
        super().__init__()
        middle = spec.out_channels * rank
        self.pointwise = spec.pointwise(out_channels=middle, bias=False).conv()
        self.between = between(middle)
        self.depthwise = spec.but(in_channels=middle, groups=spec.out_channels).conv()
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.depthwise(self.between(self.pointwise(x)))
