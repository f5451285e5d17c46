"""Grouped: a k×k convolution in g independent groups."""

import math
from typing import Annotated

from torch import nn

from zoo.convs.kinds import conv_kind
from zoo.convs.spec import ConvSpec
from zoo.errors import ConvzooError
from zoo.rules import whole

GROUP_SIZE = 16
"""Default input channels per group, from RegNetX-400MF (Radosavovic et al. 2020, Table 10)."""


def _params(spec: ConvSpec, groups: int | None = None, group_size: int | None = None) -> int:
    return spec.but(groups=possible_groups(spec, groups, group_size)).params


@conv_kind("grouped", params=_params)
def grouped(
    spec: ConvSpec, groups: Annotated[int, whole(1)] | None = None, group_size: Annotated[int, whole(1)] | None = None
) -> nn.Conv2d:
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
        ConvzooError: Both ``groups`` and ``group_size`` are given.
    """
    if groups is not None and group_size is not None:
        raise ConvzooError("conv=grouped takes either conv.groups=G or conv.group_size=CHANNELS, not both.")
    wanted = groups if groups is not None else max(1, spec.in_channels // (group_size or GROUP_SIZE))
    common = math.gcd(spec.in_channels, spec.out_channels)
    return max(g for g in range(1, min(wanted, common) + 1) if common % g == 0)
