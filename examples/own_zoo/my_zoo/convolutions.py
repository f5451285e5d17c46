"""Two kinds of convolution, with the formulas of their papers."""

from typing import Annotated

import torch
from torch import nn

import zoo
from zoo.rules import whole


def ghost_params(spec: zoo.ConvSpec, ratio: int = 2, cheap: int = 3) -> int:
    """m·k²·C + (s − 1)·m·d² with m = ⌈C′/s⌉ (Han et al. 2020, section 3.1), and a bias for each of the m features."""
    features = -(-spec.out_channels // ratio)
    return features * (spec.area * spec.in_channels + spec.bias) + (ratio - 1) * features * cheap**2


def ghost_macs(spec: zoo.ConvSpec, out_size: tuple[int, int], ratio: int = 2, cheap: int = 3) -> int:
    """The denominator of eq. 4 in Han et al. 2020: h′·w′ times the weights."""
    return out_size[0] * out_size[1] * ghost_params(spec.but(bias=False), ratio, cheap)


@zoo.conv_kind("ghost", params=ghost_params, macs=ghost_macs)
class Ghost(zoo.Factored):
    """Ghost module: a convolution makes some features, and cheap depthwise ones make the others from these.

    Source: Han et al. 2020, GhostNet, section 3.1.

    Args:
        spec: The convolution to replace.
        ratio: s; one feature of s comes from the convolution.
        cheap: d, the kernel size of the cheap operation.
    """

    def __init__(
        self, spec: zoo.ConvSpec, ratio: Annotated[int, whole(2, 8)] = 2, cheap: Annotated[int, whole(1, 7)] = 3
    ) -> None:
        super().__init__(spec)
        m = -(-spec.out_channels // ratio)
        self.primary = spec.but(out_channels=m, groups=1).conv()
        self.cheap = nn.Conv2d(m, m * (ratio - 1), cheap, padding="same", groups=m, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)[:, : self.out_channels]


def pconv_params(spec: zoo.ConvSpec, part: int = 4) -> int:
    """k²·c² + C·C′ with c = C/p (Chen et al. 2023, eq. 2 and section 3.3), and a bias."""
    return spec.area * (spec.in_channels // part) ** 2 + spec.pointwise().params


def pconv_macs(spec: zoo.ConvSpec, out_size: tuple[int, int], part: int = 4) -> int:
    """h·w·(k²·c² + C·C′) (Chen et al. 2023, eq. 2 and 5)."""
    return out_size[0] * out_size[1] * pconv_params(spec.but(bias=False), part)


def needs_stride_1(spec: zoo.ConvSpec) -> str | None:
    """Says why a convolution stays as it is."""
    return None if spec.stride == (1, 1) else "pconv keeps the size of the image"


@zoo.conv_kind("pconv", params=pconv_params, macs=pconv_macs, fits=needs_stride_1)
class PConv(zoo.Factored):
    """Partial convolution: k×k on the first channels only, then 1×1 on all of them.

    Source: Chen et al. 2023, FasterNet, sections 3.2 and 3.3.

    Args:
        spec: The convolution to replace.
        part: p; one channel of p is convolved.
    """

    def __init__(self, spec: zoo.ConvSpec, part: Annotated[int, whole(1, 16)] = 4) -> None:
        super().__init__(spec)
        self.some = spec.in_channels // part
        self.partial = spec.but(in_channels=self.some, out_channels=self.some, groups=1, bias=False).conv()
        self.pointwise = spec.pointwise().conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H, W)."""
        return self.pointwise(torch.cat([self.partial(x[:, : self.some]), x[:, self.some :]], dim=1))
