"""Builds a cell's network: timm makes the published one, the zoo rewrites it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from zoo.acts.activations import swap_activations
from zoo.backbones.families import Scale
from zoo.backbones.scaled_builders import Depth, build_scaled
from zoo.backbones.stem import shrink_stem
from zoo.errors import ConvzooError, UnfitError, choose, closest, one_line
from zoo.inputs import is_ours
from zoo.surgery.rewrite import give_ranks, rewrite


def build(
    backbone: str,
    conv: str = "native",
    act: str = "native",
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    *,
    conv_options: dict[str, Any] | None = None,
    act_options: dict[str, Any] | None = None,
    stem: str = "imagenet",
    width: float = 1.0,
    depth: Depth = 1.0,
    phi: float | None = None,
    ranks: Mapping[str, int] | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Builds a network, rewrites its convolutions, then its activations.

    With every choice ``native`` the result is timm's network, bit for bit: the same state_dict keys and logits.

    Args:
        backbone: Any timm model name (``resnet18``, ``efficientnet_b0``, ``mobilenetv1_100`` …).
        conv: Conv kind, see `zoo.rewrite`.
        act: Activation, see `zoo.swap_activations`.
        num_classes: Number of classes; 0 for no classifier.
        in_chans: Number of image channels.
        pretrained: Load timm's weights (downloaded). Rewritten convolutions are initialised at random nevertheless.
        conv_options: Options of the conv kind: ``between``, ``rank``, ``groups`` …
        act_options: Options of the activation.
        stem: ``imagenet`` (as published), or ``small`` for images up to 64 pixels (stride 1, no max-pool).
        width: Multiplier for the channels of every layer (ResNet, MobileNet and EfficientNet; see
            `zoo.backbones.scaled_builders`).
        depth: Multiplier for the blocks of every stage; a sequence gives one factor per stage.
        phi: Compound coefficient, sets both: depth 1.2^φ, width 1.1^φ. ``efficientnet_b0`` with ``phi=1`` is B2.
        ranks: The structure of a converted network (`zoo.ConversionReport.ranks`): the convolutions named here get the
            form ``conv`` at these ranks, and no other is rewritten. None rewrites all, at the kind's own rank.
        **timm_kwargs: Passed to `timm.create_model`.

    Returns:
        A network that maps (N, in_chans, H, W) to (N, num_classes).

    Raises:
        ConvzooError: A name does not exist, or the network cannot be rewritten.
    """
    net = build_native(
        backbone, num_classes, in_chans, pretrained, stem=stem, width=width, depth=depth, phi=phi, **timm_kwargs
    )
    apply_choices(net, conv, act, conv_options, ranks, act_options)
    return net


def build_native(
    backbone: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    *,
    stem: str = "imagenet",
    width: float = 1.0,
    depth: Depth = 1.0,
    phi: float | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Builds the network of `build`, before its convolutions and activations are rewritten."""
    choose("stem", stem, ("small", "imagenet"))
    settings = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained, **timm_kwargs}
    if phi is not None:
        if (width, depth) != (1, 1):
            raise ConvzooError("phi sets width and depth: leave out phi, or leave out both of them.")
        scale = Scale.compound(phi)
        width, depth = scale.width, scale.depth
    as_published = width == 1 and depth == 1
    net = _published(backbone, settings) if as_published else build_scaled(backbone, depth, width, **settings)
    if stem == "small":
        shrink_stem(net)
    return net


def apply_choices(
    net: nn.Module,
    conv: str = "native",
    act: str = "native",
    conv_options: dict[str, Any] | None = None,
    ranks: Mapping[str, int] | None = None,
    act_options: dict[str, Any] | None = None,
) -> None:
    """Rewrites a native network's convolutions, then its activations, in place; the second half of `build`."""
    if ranks is None:
        rewrite(net, conv, **(conv_options or {}))
    else:
        give_ranks(net, conv, ranks)
    swap_activations(net, act, **(act_options or {}))


def _published(backbone: str, settings: dict[str, Any]) -> nn.Module:
    if ":" not in backbone and not timm.is_model(backbone):
        guess = closest(backbone, timm.list_models())
        raise ConvzooError(
            f"model.name={backbone} does not exist in timm {timm.__version__}."
            + (f" Did you mean {guess}?" if guess else "")
            + f' Allowed: any of its {len(timm.list_models())} networks; timm.list_models("*resnet*") lists them.'
        )
    try:
        return timm.create_model(backbone, **settings)
    except OSError as error:
        if not settings["pretrained"]:
            raise
        raise ConvzooError(
            f"the weights of {backbone} could not be downloaded ({str(error).splitlines()[0]}). "
            "Type model.pretrained=false, or fetch them where there is a network."
        ) from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_ours(error):
            raise
        given = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise UnfitError(f"{backbone} cannot be built with {given} ({one_line(error)}).") from None
