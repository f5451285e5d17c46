"""Blueprint: a pointwise convolution, then a depthwise one."""

import torch
from torch import nn

from zoo.convs.between import Between, nothing
from zoo.convs.spec import ConvSpec


class Blueprint(nn.Module):
    """Blueprint-separable convolution, unconstrained (BSConv-U): 1×1 across channels, then k×k per filter.

    Parameters: C·C′ + k²·C′. Each filter is one k×k blueprint, scaled per input channel. Source: Haase & Amthor 2020,
    section 3.2.
    """

    def __init__(self, spec: ConvSpec, between: Between = nothing) -> None:
        super().__init__()
        self.pointwise = spec.pointwise(bias=False).conv()
        self.between = between(spec.out_channels)
        self.depthwise = spec.but(in_channels=spec.out_channels, groups=spec.out_channels).conv()
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.depthwise(self.between(self.pointwise(x)))
