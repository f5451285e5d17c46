"""What stands between the two factors of a convolution: nothing, or a norm and an activation."""

from collections.abc import Callable

from timm.layers import BatchNormAct2d
from torch import nn

Between = Callable[[int], nn.Module]
"""Channels → module."""


def nothing(channels: int) -> nn.Module:
    """The default: the pair is one convolution still (exact formulas, an SVD; Xception's ablation finds no gain)."""
    return nn.Identity()


def bn_act(act_layer: type[nn.Module]) -> Between:
    """BatchNorm and an activation, as in MobileNet, ERFNet and Inception-v3."""
    return lambda channels: BatchNormAct2d(channels, act_layer=act_layer)
