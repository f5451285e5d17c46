"""Defines the module between two factors of a convolution: nothing, or a norm and an activation."""

from collections.abc import Callable

from timm.layers import BatchNormAct2d
from torch import nn

Between = Callable[[int], nn.Module]
"""Function from the number of channels to the module between the factors."""


def nothing(channels: int) -> nn.Module:
    """Returns an identity, the default: the pair stays one convolution.

    So the parameter formulas are exact and an SVD applies. Xception's ablation finds no gain from an activation here.
    """
    return nn.Identity()


def bn_act(act_layer: type[nn.Module]) -> Between:
    """Returns a `Between` that makes BatchNorm and an activation, as in MobileNet, ERFNet and Inception-v3."""
    return lambda channels: BatchNormAct2d(channels, act_layer=act_layer)
