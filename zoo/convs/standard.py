"""Standard: one dense k×k convolution."""

from torch import nn

from zoo.convs.kinds import conv_kind
from zoo.convs.spec import ConvSpec


def _params(spec: ConvSpec) -> int:
    return spec.but(groups=1).params


@conv_kind("standard", params=_params)
def standard(spec: ConvSpec) -> nn.Conv2d:
    """Makes a dense k×k convolution: k²·C·C′ parameters, and as many MACs per output position."""
    return spec.but(groups=1).conv()
