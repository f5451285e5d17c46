"""Networks of a depth and a width of one's own: ResNet, MobileNetV1 to V3 and EfficientNet. timm builds them.

Depth multiplies the number of blocks of each stage, rounded up (Tan & Le 2019, section 3.3: no stage is left out).
Width multiplies all channels, rounded to the nearest multiple of 8 that takes away no more than a tenth (that is the
MobileNets' and timm's `make_divisible`). What stays is what timm keeps: MobileNetV2's head does not shrink below 1280
channels, MobileNetV3's last layer (1024 or 1280) does not change, and its stem does not below 0.75.

A ResNet's width acts on its stem and its four stages alike, with the same rounding; inside a bottleneck the
factor 4 stays. (torchvision's and timm's ``wide_resnet50_2`` is something else: it widens the 3×3 alone.)
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
"""One factor for all stages, or one for each."""


@dataclass(frozen=True)
class _MBConvNet:
    """How timm makes a network of MBConv (or MobileNetV1) blocks, and the factors that it has already."""

    make: Callable[..., nn.Module]
    stages: int
    depth: float = 1.0
    width: float = 1.0


# Depth and width of B0 to B7: Tan & Le's reference implementation, which timm follows.
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
"""timm's names of the networks that have a depth and a width."""


def check_scalable(backbone: str) -> None:
    """Raises UnfitError where a network's depth and width cannot be changed."""
    if backbone not in SCALABLE:
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
        depth: Above 0; a number for each stage where the stages differ.
        width: Above 0.
        **settings: ``num_classes``, ``in_chans`` and whatever else timm takes.

    Raises:
        ConvzooError: A network without depth and width, or factors that make no sense.
    """
    check_scalable(backbone)
    if settings.pop("pretrained", False):
        raise UnfitError(f"There are no pretrained weights for a scaled {backbone}. Type model.pretrained=false.")
    width = check_factor("width", width)
    if backbone in _RESNETS:
        return _resnet(backbone, _depths(depth, 4), width, settings)
    base = _MBCONV[backbone]
    depths = tuple(base.depth * d for d in _depths(depth, base.stages))
    return base.make(backbone, channel_multiplier=base.width * width, depth_multiplier=depths, **settings)


def check_factor(what: str, factor: object) -> float:
    """Returns ``factor`` as a float where it can scale something; raises ConvzooError otherwise."""
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
        # 36 · 1.1 is 39.600…001 in floating point, and 10 · 1.1 would round up to 12.
        layers=tuple(math.ceil(round(n * d, 6)) for n, d in zip(blocks, depths, strict=True)),
        channels=channels,
        # timm fixes a plain stem at 64 channels. A deep one can be told its width; the plain 7×7 is then put back.
        stem_type="deep",
        stem_width=channels[0] // 2,
        **settings,
    )
    net.conv1 = nn.Conv2d(net.in_chans, channels[0], 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net
