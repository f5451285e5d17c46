"""What hundreds of cells cost, without training one: in one process, on the meta device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import timm
from torch import nn
from tqdm import tqdm

from zoo.act_ops import check_complete
from zoo.acts import ACTS, SWAPPED, replace_activations, swap_activations
from zoo.builder import build
from zoo.convs import KINDS
from zoo.counting import Cost, LayerCost, cost, layer_costs
from zoo.errors import ConvzooError, choose, closest
from zoo.families import FAMILIES, Network, resolve
from zoo.meta import weightless
from zoo.rewriter import ALIASES
from zoo.stem import STEMS, stem_for

CONVS = ("native", *KINDS)
ALL_ACTS = ("native", *ACTS)

_PUBLISHED_AT = {
    backbone: family.resolutions.get(variant, 224)
    for family in FAMILIES.values()
    for variant, backbone in family.variants.items()
}


@dataclass(frozen=True)
class CellCost:
    """One row of the table.

    Attributes:
        model: timm's name of the network.
        cost: What the cell costs; None where there is no such cell.
        refused: Why there is none.
    """

    model: str
    conv: str
    act: str
    cost: Cost | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Images:
    """What the networks see and tell apart.

    Attributes:
        size: H = W or (H, W); None for the size that each network was published at.
        in_chans: Channels.
        num_classes: Classes.
        stem: ``imagenet`` as published, ``small``, or ``auto``: small for images of 64 pixels and below.
    """

    size: int | tuple[int, int] | None = None
    in_chans: int = 3
    num_classes: int = 1000
    stem: str = "auto"


PUBLISHED = Images()


def find_networks(names: Iterable[str] = FAMILIES) -> list[Network]:
    """The networks that some names stand for, each once.

    Args:
        names: A family (all its variants), ``family:variant``, a timm name, or a pattern of timm names (``regnety_*``).

    Raises:
        ConvzooError: A name that stands for nothing.
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


def tabulate(
    models: Iterable[str] = FAMILIES,
    convs: Iterable[str] = CONVS,
    acts: Iterable[str] = ("native",),
    images: Images = PUBLISHED,
    *,
    progress: bool = False,
) -> list[CellCost]:
    """Counts every cell of models × convs × acts. One that does not exist is in the list too, with the reason.

    Args:
        models: As for `find_networks`; all families by default.
        convs, acts: Conv kinds and activations, ``native`` among them.
        images: What the networks see; by default what each was published with.
        progress: Whether to show a progress bar where standard error is a terminal.

    Raises:
        ConvzooError: A model, conv kind, activation or stem that does not exist.
    """
    convs = [choose("conv", ALIASES.get(conv, conv), CONVS) for conv in convs]
    acts = [choose("act", act, ALL_ACTS) for act in acts]
    choose("stem", images.stem, STEMS)
    pairs = [(network, conv) for network in find_networks(models) for conv in convs]
    bar = tqdm(pairs, unit="network", leave=False, disable=None if progress and len(pairs) > 10 else True)
    return [cell for network, conv in bar for cell in _count(network, conv, acts, images)]


def layers(model: str, conv: str = "native", act: str = "native", images: Images = PUBLISHED) -> list[LayerCost]:
    """What one cell costs, layer by layer.

    Raises:
        ConvzooError: There is no such cell, or ``model`` stands for several networks.
    """
    networks = find_networks([model])
    if len(networks) > 1:
        first = networks[0].backbone
        raise ConvzooError(f"model={model} stands for {len(networks)} networks. Name one, such as model={first}.")
    try:
        net, size = _build(networks[0], conv, images)
        with weightless():
            swap_activations(net, act)
        return layer_costs(net, size, images.in_chans)
    except Exception as error:
        raise ConvzooError(_reason(error)) from error


def _build(network: Network, conv: str, images: Images) -> tuple[nn.Module, int | tuple[int, int]]:
    size = images.size or network.image_size or _PUBLISHED_AT.get(network.backbone)
    size = size or timm.get_pretrained_cfg(network.backbone).input_size[1:]
    with weightless():
        net = build(
            network.backbone,
            conv,
            num_classes=images.num_classes,
            in_chans=images.in_chans,
            phi=network.phi,
            stem=stem_for(images.stem, size),
        )
    return net, size


def _count(network: Network, conv: str, acts: Sequence[str], images: Images) -> Iterator[CellCost]:
    """One network serves all activations: they compute no products, so that only parameters of their own count."""
    name = network.backbone
    try:
        net, size = _build(network, conv, images)
        native = cost(net, size, images.in_chans)
    # A network of timm's may fail in its own way (an image too small, say); the other cells should not fall with it.
    except Exception as error:
        yield from (CellCost(name, conv, act, refused=_reason(error)) for act in acts)
        return
    for act in acts:
        try:
            if act != "native":
                _need_complete(name)
                replace_activations(net, act)
        except ConvzooError as error:
            yield CellCost(name, conv, act, refused=_reason(error))
            continue
        yield CellCost(name, conv, act, native if act == "native" else _with_params_of(net, native))


def _need_complete(backbone: str) -> None:
    """Once per network: rewriting its convolutions changes nothing about its activations."""
    if reason := _why_incomplete(backbone):
        raise ConvzooError(reason)


@cache
def _why_incomplete(backbone: str) -> str | None:
    with weightless():
        net = timm.create_model(backbone)
    try:
        check_complete(net, SWAPPED)
    except ConvzooError as error:
        return str(error)
    return None


def _with_params_of(net: nn.Module, cost: Cost) -> Cost:
    params = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return replace(cost, params=sum(n for n, _ in params), params_trainable=sum(n for n, trains in params if trains))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ConvzooError) else f"{type(error).__name__}: {text}"
