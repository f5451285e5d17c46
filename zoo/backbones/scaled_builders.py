"""Builds ResNet, MobileNetV1 to V3 and EfficientNet at any depth and width, by means of timm.

Depth multiplies the number of blocks of each stage, rounded up (Tan & Le 2019, section 3.3), so that no stage vanishes.
Width multiplies all channels, rounded to the nearest multiple of 8 that is at most a tenth smaller (`make_divisible` of
the MobileNets and timm). timm's exceptions hold: MobileNetV2's head does not shrink below 1280 channels, MobileNetV3's
last layer (1024 or 1280) does not change, and neither does its stem at widths below 0.75.

A ResNet's width scales its stem and its four stages alike, with the same rounding; inside a bottleneck the factor 4
stays. (``wide_resnet50_2`` of torchvision and timm is different: it widens only the 3×3.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import make_divisible
from timm.models.efficientnet import _gen_efficientnet, _gen_mobilenet_v1, _gen_mobilenet_v2
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from torch import nn

from zoo.backbones.families import FAMILIES
from zoo.errors import ConvzooError, UnfitError, closest

Depth = float | Sequence[float]
"""One factor for all stages, or one per stage."""


@dataclass(frozen=True)
class _MBConvNet:
    """timm's function for a network of MBConv (or MobileNetV1) blocks, and the factors that it includes already."""

    make: Callable[..., nn.Module]
    stages: int
    depth: float = 1.0
    width: float = 1.0


# Depth and width of B0 to B7, from Tan & Le's reference implementation, which timm follows.
_EFFNETS = ((1.0, 1.0), (1.1, 1.0), (1.2, 1.1), (1.4, 1.2), (1.8, 1.4), (2.2, 1.6), (2.6, 1.8), (3.1, 2.0))
_MBCONV = {
    "mobilenetv1_100": _MBConvNet(_gen_mobilenet_v1, 5),
    "mobilenetv2_100": _MBConvNet(_gen_mobilenet_v2, 7),
    "mobilenetv3_small_100": _MBConvNet(_gen_mobilenet_v3, 6),
    "mobilenetv3_large_100": _MBConvNet(_gen_mobilenet_v3, 7),
    **{f"efficientnet_b{n}": _MBConvNet(_gen_efficientnet, 7, *factors) for n, factors in enumerate(_EFFNETS)},
}
_RESNETS = tuple(FAMILIES["resnet"].variants.values())
_RESNET_CHANNELS = (64, 128, 256, 512)

SCALABLE = (*_RESNETS, *_MBCONV)
"""timm's names of the networks whose depth and width can be scaled."""

OWN_SCALING: set[str] = set()
"""Registered backbones that take ``width`` and ``depth`` themselves."""


def is_scalable(backbone: str) -> bool:
    """Returns whether a network's depth and width can be scaled."""
    return backbone in SCALABLE or backbone in OWN_SCALING


def check_scalable(backbone: str) -> None:
    """Raises UnfitError if a network's depth and width cannot be scaled."""
    if not is_scalable(backbone):
        guess = closest(backbone, SCALABLE)
        raise UnfitError(
            f"{backbone} has no depth and width to scale."
            + (f" Did you mean {guess}?" if guess else "")
            + " Scalable: "
            f"{', '.join(SCALABLE)}. Type scale=none, or scale=resolution, which any network takes."
        )


def build_scaled(backbone: str, depth: Depth, width: float, **settings: Any) -> nn.Module:
    """Builds one of `SCALABLE` with ``depth`` times its blocks and ``width`` times its channels.

    Args:
        backbone: timm's name of the network that the factors are relative to.
        depth: Above 0; one number, or one per stage.
        width: Above 0.
        **settings: ``num_classes``, ``in_chans`` and other arguments of timm.

    Raises:
        ConvzooError: The network cannot be scaled, a factor is invalid, or ``pretrained`` is set.
    """
    check_scalable(backbone)
    if settings.pop("pretrained", False):
        raise UnfitError(f"There are no pretrained weights for a scaled {backbone}. Type model.pretrained=false.")
    width = check_factor("width", width)
    if backbone in OWN_SCALING:
        return timm.create_model(backbone, width=width, depth=depth, **settings)
    if backbone in _RESNETS:
        return _resnet(backbone, _depths(depth, 4), width, settings)
    base = _MBCONV[backbone]
    depths = tuple(base.depth * d for d in _depths(depth, base.stages))
    return base.make(backbone, channel_multiplier=base.width * width, depth_multiplier=depths, **settings)


def check_factor(what: str, factor: object) -> float:
    """Returns ``factor`` as a float; raises ConvzooError unless it is above 0 and at most 32."""
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not (0 < factor <= 32):
        raise ConvzooError(
            f"{what}={factor} cannot scale a network. Allowed: a number above 0, up to 32; 1 is as it is."
        )
    return float(factor)


def _depths(depth: Depth, stages: int) -> tuple[float, ...]:
    if not isinstance(depth, (list, tuple)):
        return (check_factor("depth", depth),) * stages
    if len(depth) != stages:
        raise ConvzooError(
            f"depth={list(depth)} has {len(depth)} factors for {stages} stages. "
            f"Type one factor for all, or {stages} of them."
        )
    return tuple(check_factor("depth", d) for d in depth)


def _resnet(backbone: str, depths: tuple[float, ...], width: float, settings: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        native = timm.create_model(backbone)
    blocks = [len(native.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)]
    channels = tuple(make_divisible(c * width) for c in _RESNET_CHANNELS)
    net = timm.create_model(
        backbone,
        # Without round(), 10 · 1.1 = 11.000…002 in floating point would become 12.
        layers=tuple(math.ceil(round(n * d, 6)) for n, d in zip(blocks, depths, strict=True)),
        channels=channels,
        # timm fixes a plain stem at 64 channels. A deep stem takes a width; the plain 7×7 is restored below.
        stem_type="deep",
        stem_width=channels[0] // 2,
        **settings,
    )
    net.conv1 = nn.Conv2d(net.in_chans, channels[0], 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net
