"""Grouped: a k×k convolution in g independent groups."""

import math

from torch import nn

from zoo.convs.spec import ConvSpec
from zoo.errors import ConvzooError

GROUP_SIZE = 16
"""Default input channels per group, from RegNetX-400MF (Radosavovic et al. 2020, Table 10)."""


def grouped(spec: ConvSpec, groups: int | None = None, group_size: int | None = None) -> nn.Conv2d:
    """Makes a grouped k×k convolution: k²·C·C′/g parameters.

    Source: Krizhevsky et al. 2012; Xie et al. 2017 (ResNeXt, ``groups``); Radosavovic et al. 2020 (RegNet,
    ``group_size``).

    Args:
        spec: The logical convolution.
        groups: g, the number of groups.
        group_size: Input channels per group instead: g = C / group_size. The default is 16.
    """
    return spec.but(groups=possible_groups(spec, groups, group_size)).conv()


def possible_groups(spec: ConvSpec, groups: int | None = None, group_size: int | None = None) -> int:
    """Returns the number of groups: the largest common divisor of C and C′ that does not exceed the requested number.

    Raises:
        ConvzooError: Both ``groups`` and ``group_size`` are given, or a value is not a positive integer.
    """
    if groups is not None and group_size is not None:
        raise ConvzooError("conv=grouped takes either conv.groups=G or conv.group_size=CHANNELS, not both.")
    key, wish = ("conv.groups", groups) if groups is not None else ("conv.group_size", group_size or GROUP_SIZE)
    if type(wish) is not int or wish < 1:
        raise ConvzooError(f"{key}={wish} is not allowed. Allowed: a whole number from 1.")
    wanted = wish if groups is not None else max(1, spec.in_channels // wish)
    common = math.gcd(spec.in_channels, spec.out_channels)
    return max(g for g in range(1, min(wanted, common) + 1) if common % g == 0)
