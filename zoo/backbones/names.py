"""Resolves names and patterns to networks, and finds the image size that each was published with."""

from __future__ import annotations

from collections.abc import Iterable

import timm

from zoo.backbones.families import FAMILIES, Network, resolve
from zoo.errors import ConvzooError, closest
from zoo.image_size import ImageSize


def find_networks(names: Iterable[str] = FAMILIES) -> list[Network]:
    """Returns the networks that the given names stand for, each once.

    Args:
        names: A family (all its variants), ``family:variant``, a timm name, or a pattern of timm names (``regnety_*``).

    Raises:
        ConvzooError: A name matches no network.
    """
    found: dict[str, Network] = {}
    for name in names:
        family, _, variant = name.partition(":")
        if family in FAMILIES:
            networks = [resolve(family, v) for v in ([variant] if variant else FAMILIES[family].variants)]
        elif set("*?[") & set(name):
            networks = [resolve(match) for match in timm.list_models(name)]
        else:
            networks = [resolve(name)] if timm.is_model(name) else []
        if not networks:
            guess = closest(name, [*FAMILIES, *timm.list_models()])
            raise ConvzooError(
                f"model={name} does not exist." + (f" Did you mean {guess}?" if guess else "") + " Allowed: a family"
                f" ({', '.join(FAMILIES)}), one of its variants (effnet:b0), or any timm name or pattern (regnety_*)."
            )
        found.update((network.backbone, network) for network in networks)
    return list(found.values())


def published_size(network: Network) -> ImageSize:
    """Returns the image size that a network was published with."""
    if network.image_size:
        return ImageSize.of(network.image_size)
    for family in FAMILIES.values():
        for variant, backbone in family.variants.items():
            if backbone == network.backbone:
                return ImageSize.of(family.resolutions.get(variant, 224))
    published = timm.get_pretrained_cfg(network.backbone)
    return ImageSize.of(published.input_size[1:] if published else 224)
