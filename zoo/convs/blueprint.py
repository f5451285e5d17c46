"""Blueprint: a pointwise convolution, then a depthwise one."""

from typing import Annotated

import torch

from zoo.convs.between import Between, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import conv_kind
from zoo.convs.low_rank import FromDense, Rank, dense_kernel, low_rank
from zoo.convs.spec import ConvSpec
from zoo.rules import whole


def _params(spec: ConvSpec, rank: int = 1) -> int:
    return rank * (spec.in_channels * spec.out_channels + spec.area * spec.out_channels) + spec.out_channels * spec.bias


@conv_kind("blueprint", params=_params)
class Blueprint(Factored):
    """Blueprint-separable convolution, unconstrained (BSConv-U): 1×1 across channels, then k×k per filter.

    Parameters: r·(C·C′ + k²·C′). With r = 1 each filter is one k×k blueprint, scaled per input channel; with r > 1 it
    is the sum of r of them. Source: Haase & Amthor 2020, section 3.1.

    Args:
        spec: The logical convolution. Its groups are ignored.
        rank: r, the number of blueprints per filter.
    """

    def __init__(self, spec: ConvSpec, between: Between = nothing, *, rank: Annotated[int, whole(1)] = 1) -> None:
        super().__init__(spec)
        middle = spec.out_channels * rank
        self.pointwise = spec.pointwise(out_channels=middle, bias=False).conv()
        self.between = between(middle)
        self.depthwise = spec.but(in_channels=middle, groups=spec.out_channels).conv()

    @staticmethod
    def from_dense(weight: torch.Tensor, rank: Rank, spec: ConvSpec) -> FromDense:
        """One matrix an output filter: C × k²."""
        found = low_rank(dense_kernel(weight, spec.groups).flatten(2), 1 if rank is None else rank)
        return found.into(pointwise=found.left.transpose(1, 2), depthwise=found.right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.depthwise(self.between(self.pointwise(x)))
