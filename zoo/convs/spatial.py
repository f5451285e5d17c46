"""Spatial: a vertical convolution, then a horizontal one."""

from typing import Annotated

import torch

from zoo.convs.between import Between, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import conv_kind
from zoo.convs.low_rank import FromDense, Rank, low_rank
from zoo.convs.spec import ConvSpec
from zoo.rules import or_null, whole


def _params(spec: ConvSpec, rank: int | None = None) -> int:
    height, width = spec.kernel_size
    middle = min(spec.in_channels, spec.out_channels) // spec.groups if rank is None else rank
    return middle * (height * spec.in_channels + width * spec.out_channels) + spec.out_channels * spec.bias


@conv_kind("spatial", params=_params)
class Spatial(Factored):
    """Spatially separable convolution: k×1 to m channels, then 1×k to C′.

    Parameters: (k·C·m + k·m·C′)/g with m = min(C, C′), the largest rank that saves weights wherever C ≠ C′
    (with m = C′ and C′ = 2C it would save nothing). Stride, padding and dilation are split per axis. A grouped
    convolution keeps its groups. Source: Jaderberg et al. 2014, scheme 2.

    Args:
        spec: The logical convolution.
        rank: m/g, the number of middle channels per group; None for the m above.
    """

    def __init__(
        self, spec: ConvSpec, between: Between = nothing, *, rank: Annotated[int | None, or_null(whole(1))] = None
    ) -> None:
        super().__init__(spec)
        middle = min(spec.in_channels, spec.out_channels) if rank is None else rank * spec.groups
        self.vertical = spec.axis(0, out_channels=middle, bias=False).conv()
        self.between = between(middle)
        self.horizontal = spec.axis(1, in_channels=middle).conv()

    @staticmethod
    def from_dense(weight: torch.Tensor, rank: Rank, spec: ConvSpec) -> FromDense:
        """One matrix a group: (C/g·k) × (k·C′/g)."""
        height, width = spec.kernel_size
        kernel = weight.unflatten(0, (spec.groups, -1))  # g, C′/g, C/g, kh, kw
        matrices = kernel.permute(0, 2, 3, 4, 1).flatten(3).flatten(1, 2)
        found = low_rank(matrices, min(spec.in_channels, spec.out_channels) // spec.groups if rank is None else rank)
        return found.into(
            vertical=found.left.unflatten(1, (-1, height)).permute(0, 3, 1, 2),  # g, r, C/g, kh
            horizontal=found.right.unflatten(2, (width, -1)).permute(0, 3, 1, 2),  # g, C′/g, r, kw
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        return self.horizontal(self.between(self.vertical(x)))
