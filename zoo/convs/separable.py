"""Separable: a depthwise convolution, then a pointwise one."""

from typing import Annotated

import torch

from zoo.convs.between import Between, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import conv_kind
from zoo.convs.low_rank import FromDense, Rank, dense_kernel, low_rank
from zoo.convs.spec import ConvSpec
from zoo.rules import whole


def _params(spec: ConvSpec, rank: int = 1) -> int:
    return rank * (spec.area * spec.in_channels + spec.in_channels * spec.out_channels) + spec.out_channels * spec.bias


@conv_kind("separable", params=_params)
class Separable(Factored):
    """Depthwise-separable convolution: k×k per channel, then 1×1 across channels.

    Parameters: r·(k²·C + C·C′). With nothing between the two factors the pair is a k×k convolution of rank r (default
    1) per channel. Source: Sifre 2014; Chollet 2017 (Xception, whose ablation finds no gain from an activation
    between the factors); Howard et al. 2017 (MobileNet, eq. 5).

    Args:
        spec: The logical convolution. Its groups are ignored.
        rank: r, the number of depthwise filters per channel (TensorFlow's depth multiplier).
    """

    def __init__(self, spec: ConvSpec, between: Between = nothing, *, rank: Annotated[int, whole(1)] = 1) -> None:
        super().__init__(spec)
        middle = spec.in_channels * rank
        self.depthwise = spec.but(out_channels=middle, groups=spec.in_channels, bias=False).conv()
        self.between = between(middle)
        self.pointwise = spec.pointwise(in_channels=middle).conv()

    @staticmethod
    def from_dense(weight: torch.Tensor, rank: Rank, spec: ConvSpec) -> FromDense:
        """One matrix an input channel: C′ × k²."""
        matrices = dense_kernel(weight, spec.groups).flatten(2).transpose(0, 1)
        found = low_rank(matrices, 1 if rank is None else rank)
        return found.into(depthwise=found.right, pointwise=found.left.transpose(0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.pointwise(self.between(self.depthwise(x)))
