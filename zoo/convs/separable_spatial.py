"""Separable and spatial: a depthwise convolution in two one-dimensional steps, then a pointwise one."""

import torch

from zoo.convs.between import Between, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import conv_kind
from zoo.convs.spec import ConvSpec


def _params(spec: ConvSpec) -> int:
    return (sum(spec.kernel_size) + spec.out_channels) * spec.in_channels + spec.out_channels * spec.bias


@conv_kind("separable_spatial", params=_params)
class SeparableSpatial(Factored):
    """Depthwise k×1, depthwise 1×k, then 1×1: every dimension of the kernel has its own factor.

    Parameters: 2·k·C + C·C′ (k_h·C + k_w·C in general). Source: the composition of `Separable` and `Spatial`, as in
    Inception-style depthwise factorisations (Szegedy et al. 2016, section 3.2, applied per channel).
    """

    def __init__(self, spec: ConvSpec, between: Between = nothing) -> None:
        super().__init__(spec)
        per_channel = spec.but(out_channels=spec.in_channels, groups=spec.in_channels, bias=False)
        self.vertical = per_channel.axis(0).conv()
        self.horizontal = per_channel.axis(1).conv()
        self.between = between(spec.in_channels)
        self.pointwise = spec.pointwise().conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.pointwise(self.between(self.horizontal(self.vertical(x))))
