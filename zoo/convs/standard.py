"""Standard: one dense k×k convolution."""

from torch import nn

from zoo.convs.kinds import conv_kind
from zoo.convs.spec import ConvSpec


@conv_kind("standard")
def standard(spec: ConvSpec) -> nn.Conv2d:
    """Makes a dense k×k convolution: k²·C·C′ parameters, and as many MACs per output position."""
    return spec.but(groups=1).conv()
