"""Matches blocks whose depthwise and pointwise convolutions together realise one logical convolution.

A depthwise convolution rarely stands alone: with the pointwise convolution before or after it, it realises one logical
k×k convolution. Which two belong together depends on the type of block:

- MBConv (``InvertedResidual``, MobileNetV2/V3, EfficientNet; ``LinearBottleneck``, ReXNet; the middle of
  ``UniversalInvertedResidual``, MobileNetV4): from the block's input to the expanded channels, as in Fused-MBConv,
  which is timm's ``EdgeResidual``. ``DepthwiseSeparableConv`` with a linear output is the same block at expansion 1.
- A separable pair (``DepthwiseSeparableConv`` that ends in an activation: MobileNetV1; ``SeparableConv2d``: Xception,
  NASNet; a ``UniversalInvertedResidual`` without a middle): from the pair's input to its output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from timm.layers import Conv2dSame
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    UniversalInvertedResidual,
)
from timm.models.rexnet import LinearBottleneck
from torch import nn

from zoo.convs import ConvSpec

Changes = Callable[[nn.Module], dict[str, nn.Module]]
"""From the module that realises the logical convolution to modules by name in the block ("": the block itself)."""


class Half(NamedTuple):
    """The logical convolution that a block realises in two halves.

    Attributes:
        parts: Names, within the block, of the modules that make up the two halves.
        forms: The conv kinds that the two halves together are.
    """

    spec: ConvSpec
    changes: Changes
    parts: tuple[str, ...]
    forms: frozenset[str]


MBCONV = frozenset({"separable", "blueprint"})
"""1×1 to the expanded channels, then depthwise: a blueprint convolution, though the field calls it separable."""
PAIR = frozenset({"separable"})


def match_block(block: nn.Module) -> Half | None:
    """Returns the logical convolution of a block of a known type in its plain form; None for any other."""
    kind = type(block)
    if kind is InvertedResidual:
        return _inverted_residual(block)
    if kind is DepthwiseSeparableConv:
        return _depthwise_separable(block)
    if kind is UniversalInvertedResidual:
        return _universal(block)
    if kind is LinearBottleneck:
        return _linear_bottleneck(block)
    if "Separable" in kind.__name__:
        return _separable_pair(block)
    return None


def is_depthwise(conv: object) -> bool:
    """Returns whether a module is a plain depthwise convolution."""
    return type(conv) in (nn.Conv2d, Conv2dSame) and 1 < conv.groups == conv.in_channels


def _is_pointwise(conv: object) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1


def _logical(depthwise: nn.Conv2d, in_channels: int | None = None, out_channels: int | None = None) -> ConvSpec:
    spec = ConvSpec.of(depthwise).but(groups=1)
    return spec.but(in_channels=in_channels or spec.in_channels, out_channels=out_channels or spec.out_channels)


def _inverted_residual(block: InvertedResidual) -> Half | None:
    if not (is_depthwise(block.conv_dw) and _is_pointwise(block.conv_pw)) or block.conv_s2d is not None:
        return None
    spec = _logical(block.conv_dw, in_channels=block.conv_pw.in_channels)
    parts = ("conv_pw", "bn1", "conv_dw", "bn2")
    return Half(spec, lambda conv: {"": _fused(block, conv, block.bn2, block.conv_pwl, block.bn3)}, parts, MBCONV)


def _depthwise_separable(block: DepthwiseSeparableConv) -> Half | None:
    if not (is_depthwise(block.conv_dw) and _is_pointwise(block.conv_pw)) or block.conv_s2d is not None:
        return None
    if not block.has_pw_act:
        spec = _logical(block.conv_dw)
        fuse = lambda conv: {"": _fused(block, conv, block.bn1, block.conv_pw, block.bn2)}  # noqa: E731
        return Half(spec, fuse, ("conv_dw", "bn1"), PAIR)
    spec = _logical(block.conv_dw, out_channels=block.conv_pw.out_channels)
    if not isinstance(block.se, nn.Identity):
        # LCNet has squeeze-excite between the halves. It moves before the convolution, where its width fits.
        gone = {name: nn.Identity() for name in ("bn1", "se", "conv_pw")}
        changes = lambda conv: {"conv_dw": nn.Sequential(block.se, conv), **gone}  # noqa: E731
        return Half(spec, changes, ("conv_dw", "bn1", "conv_pw"), PAIR)
    return Half(spec, lambda conv: {"": _plain(block, conv)}, ("conv_dw", "bn1", "conv_pw", "bn2"), PAIR)


def _fused(block: nn.Module, conv: nn.Module, bn1: nn.Module, project: nn.Module, bn2: nn.Module) -> EdgeResidual:
    """Makes a Fused-MBConv: the block with ``conv`` in place of its expansion and depthwise convolutions."""
    fused = _empty(EdgeResidual, block.training)
    fused.conv_exp, fused.bn1, fused.aa, fused.se = conv, bn1, block.aa, block.se
    fused.conv_pwl, fused.bn2, fused.drop_path = project, bn2, block.drop_path
    fused.has_skip = block.has_skip
    return fused


def _empty(kind: type[nn.Module], training: bool) -> nn.Module:
    """Makes a block with the plain attributes that timm sets but no modules, since all would be replaced."""
    block = nn.Module.__new__(kind)
    nn.Module.__init__(block)
    vars(block).update(_attributes(kind), training=training)
    return block


@cache
def _attributes(kind: type[nn.Module]) -> dict[str, object]:
    with torch.device("meta"):
        own = vars(kind(8, 8, 1))
    return {name: value for name, value in own.items() if name not in vars(nn.Module())}


def _plain(block: DepthwiseSeparableConv, conv: nn.Module) -> ConvBnAct:
    """Makes the block with ``conv`` in place of its two convolutions and everything between them."""
    plain = _empty(ConvBnAct, block.training)
    plain.conv, plain.bn1, plain.aa, plain.drop_path = conv, block.bn2, block.aa, block.drop_path
    plain.has_skip = block.has_skip
    return plain


def _universal(block: UniversalInvertedResidual) -> Half | None:
    expand, middle, start = (getattr(m, "conv", None) for m in (block.pw_exp, block.dw_mid, block.dw_start))
    if not _is_pointwise(expand):
        return None
    if is_depthwise(middle):
        spec = _logical(middle, in_channels=expand.in_channels)
        return Half(spec, lambda conv: {"pw_exp": nn.Identity(), "dw_mid.conv": conv}, ("pw_exp", "dw_mid"), MBCONV)
    if is_depthwise(start):
        spec = _logical(start, out_channels=expand.out_channels)
        return Half(spec, lambda conv: {"dw_start": nn.Identity(), "pw_exp.conv": conv}, ("dw_start", "pw_exp"), PAIR)
    return None


def _linear_bottleneck(block: LinearBottleneck) -> Half | None:
    expand = getattr(block.conv_exp, "conv", None)
    if not (is_depthwise(block.conv_dw.conv) and _is_pointwise(expand)):
        return None
    spec = _logical(block.conv_dw.conv, in_channels=expand.in_channels)
    changes = {"conv_exp": nn.Identity()}
    return Half(spec, lambda conv: {**changes, "conv_dw.conv": conv}, ("conv_exp", "conv_dw"), MBCONV)


PAIRS = (("conv_dw", "conv_pw"), ("conv1", "pointwise"), ("depthwise_conv2d", "pointwise_conv2d"))
"""Names of the two halves in timm's separable convolutions."""


def _separable_pair(block: nn.Module) -> Half | None:
    for first, second in PAIRS:
        depthwise, pointwise = getattr(block, first, None), getattr(block, second, None)
        if is_depthwise(depthwise) and _is_pointwise(pointwise):
            spec = _logical(depthwise, out_channels=pointwise.out_channels).but(bias=pointwise.bias is not None)
            between = [n for n in ("bn_dw", "act_dw") if isinstance(getattr(block, n, None), nn.Module)]
            gone = {name: nn.Identity() for name in (second, *between)}
            return Half(spec, lambda conv, f=first, g=gone: {f: conv, **g}, (first, second, *between), PAIR)
    return None
