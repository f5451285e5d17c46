"""My own choices. Importing this file registers them: ``convzoo train plugins=[my_zoo] conv=ghost act=tanh_exp``."""

import torch
from torch import nn

import zoo


def ghost_params(spec: zoo.ConvSpec, ratio: int = 2, cheap_size: int = 3) -> int:
    """k²·C·m + d²·m·(s − 1) with m = ⌈C′/s⌉ (Han et al. 2020, eq. 5), and a bias for each of the m features."""
    primary = -(-spec.out_channels // ratio)
    return primary * (spec.area * spec.in_channels + spec.bias) + cheap_size**2 * primary * (ratio - 1)


@zoo.conv_kind("ghost", params=ghost_params)
class Ghost(zoo.Factored):
    """Ghost module: a convolution makes some of the features, cheap depthwise ones make the others from them.

    Source: Han et al. 2020, GhostNet, section 3.1.

    Args:
        spec: The convolution to replace: its channels, kernel, stride …
        ratio: s; one feature of s comes from the convolution.
        cheap_size: d, the kernel size of the depthwise convolution.
    """

    def __init__(self, spec: zoo.ConvSpec, ratio: int = 2, cheap_size: int = 3) -> None:
        super().__init__(spec)
        primary = -(-spec.out_channels // ratio)
        self.primary = spec.but(out_channels=primary, groups=1).conv()
        self.cheap = zoo.ConvSpec(
            primary,
            primary * (ratio - 1),
            (cheap_size, cheap_size),
            padding=(cheap_size // 2, cheap_size // 2),
            groups=primary,
            device=spec.device,
            dtype=spec.dtype,
        ).conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C′, H′, W′)."""
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)[:, : self.out_channels]


@zoo.activation("tanh_exp")
class TanhExp(nn.Module):
    """x·tanh(exp(x)). Source: Liu & Di 2020, TanhExp."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape; elementwise."""
        return x * torch.tanh(torch.exp(x))
