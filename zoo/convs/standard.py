"""Standard: one dense k×k convolution."""

from torch import nn

from zoo.convs.spec import ConvSpec


def standard(spec: ConvSpec) -> nn.Conv2d:
    """Makes a dense k×k convolution: k²·C·C′ parameters, and as many MACs per output position."""
    return spec.but(groups=1).conv()
