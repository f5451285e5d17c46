"""Standard: one dense k×k convolution."""

from torch import nn

from zoo.convs.spec import ConvSpec


def standard(spec: ConvSpec) -> nn.Conv2d:
    """A dense k×k convolution: k²·C·C′ parameters, the same number of MACs per output position."""
    return spec.but(groups=1).conv()
