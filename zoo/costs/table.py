"""What hundreds of cells cost, without training one: in one process, on the meta device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import timm
from torch import nn
from tqdm import tqdm

from zoo.acts.activations import ACTS, SWAPPED, replace_activations
from zoo.acts.functional import check_complete
from zoo.backbones.families import FAMILIES, Network
from zoo.backbones.names import find_networks, published_size
from zoo.backbones.stem import STEMS, stem_for
from zoo.convs import KINDS
from zoo.costs.budget import parse_budget
from zoo.costs.counting import Cost, LayerCost, layer_costs
from zoo.costs.forks import mapped
from zoo.costs.matching import OVERS, Match, match_text
from zoo.costs.reuse import Reuse
from zoo.errors import ConvzooError, choose
from zoo.meta import meta_init
from zoo.surgery.rewrite import ALIASES

if TYPE_CHECKING:
    from zoo.costs.table_time import CellSpeed

CONVS = ("native", *KINDS)
ALL_ACTS = ("native", *ACTS)


@dataclass(frozen=True)
class CellCost:
    """One row of the table.

    Attributes:
        model: timm's name of the network.
        cost: What the cell costs; None where there is no such cell.
        refused: Why there is none.
        match: The width or φ at which it meets a budget, where one was given.
        speed: How fast it is, where that was measured (`zoo.costs.table_time`).
        untimed: Why it could not be measured.
    """

    model: str
    conv: str
    act: str
    cost: Cost | None = None
    refused: str | None = None
    match: Match | None = None
    speed: CellSpeed | None = None
    untimed: str | None = None


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


def tabulate(
    models: Iterable[str] = FAMILIES,
    convs: Iterable[str] = CONVS,
    acts: Iterable[str] = ("native",),
    images: Images = PUBLISHED,
    *,
    match: str | None = None,
    over: str = "width",
    progress: bool = False,
    processes: int = 1,
) -> list[CellCost]:
    """Counts every cell of models × convs × acts. One that does not exist is in the list too, with the reason.

    Args:
        models: As for `find_networks`; all families by default.
        convs, acts: Conv kinds and activations, ``native`` among them.
        images: What the networks see; by default what each was published with.
        match: A budget that every cell should meet, as for `zoo.costs.matching.match_text`: it is counted at the
            ``width`` or ``phi`` (``over``) that comes nearest. A network without a width, or a budget out of reach, is
            refused.
        over: What is matched over.
        progress: Whether to show a progress bar where standard error is a terminal.
        processes: How many count at once, each a fork of this one, which should have no threads at work.

    Raises:
        ConvzooError: A model, conv kind, activation or stem that does not exist; a ``match`` that is no budget.
    """
    if match is not None:
        parse_budget(match, "match")
        choose("over", over, OVERS)
    convs = [choose("conv", ALIASES.get(conv, conv), CONVS) for conv in convs]
    acts = [choose("act", act, ALL_ACTS) for act in acts]
    choose("stem", images.stem, STEMS)
    networks = find_networks(models)
    count = partial(_count_network, convs=convs, acts=acts, images=images, budget=match, over=over)
    many = match or len(networks) * len(convs) > 10
    quiet = None if progress and many else True
    try:
        with mapped(count, networks, processes if many else 1) as counted:
            bar = tqdm(counted, total=len(networks), unit="network", leave=False, disable=quiet)
            return [cell for cells in bar for cell in cells]
    finally:
        _reuse.cache_clear()


def layers(model: str, conv: str = "native", act: str = "native", images: Images = PUBLISHED) -> list[LayerCost]:
    """What one cell costs, layer by layer.

    Raises:
        ConvzooError: There is no such cell, or ``model`` stands for several networks.
    """
    networks = find_networks([model])
    if len(networks) > 1:
        first = networks[0].backbone
        raise ConvzooError(f"model={model} stands for {len(networks)} networks. Name one, such as model={first}.")
    network = networks[0]
    size = images.size or published_size(network)
    with Reuse().network(network.backbone, conv, act, phi=network.phi, **_settings(images, size)) as net:
        return layer_costs(net, size, images.in_chans)


def _settings(images: Images, size: int | tuple[int, int]) -> dict[str, Any]:
    return {"num_classes": images.num_classes, "in_chans": images.in_chans, "stem": stem_for(images.stem, size)}


@cache
def _reuse() -> Reuse:
    """One for each process."""
    return Reuse()


def _count_network(
    network: Network, convs: Sequence[str], acts: Sequence[str], images: Images, budget: str | None, over: str
) -> list[CellCost]:
    if budget is None:
        return [cell for conv in convs for cell in _count(network, conv, acts, images)]
    return [cell for conv in convs for cell in _meet(network, conv, acts, images, budget, over)]


def _count(
    network: Network, conv: str, acts: Sequence[str], images: Images, found: Match | None = None
) -> list[CellCost]:
    """One network serves all activations: they compute no products, so that only parameters of their own count."""
    name, size, reuse = network.backbone, images.size or published_size(network), _reuse()
    scale = {found.over: found.value} if found else {"phi": network.phi}
    with ExitStack() as stack:
        try:
            net = stack.enter_context(reuse.network(name, conv, **_settings(images, size), **scale))
            native = found.cost if found else reuse.cost(net, size, images.in_chans)
        except ConvzooError as error:
            return [CellCost(name, conv, act, refused=_reason(error)) for act in acts]
        return [_with_activation(name, conv, act, net, native, found) for act in acts]


def _with_activation(name: str, conv: str, act: str, net: nn.Module, native: Cost, found: Match | None) -> CellCost:
    counted = native
    if act != "native":
        try:
            _need_complete(name)
            replace_activations(net, act)
        except ConvzooError as error:
            return CellCost(name, conv, act, refused=_reason(error))
        counted = _with_params_of(net, native)
    return CellCost(name, conv, act, counted, match=found and replace(found, cost=counted))


def _meet(
    network: Network, conv: str, acts: Sequence[str], images: Images, budget: str, over: str
) -> Iterator[CellCost]:
    """One width serves all activations where the budget is one of MACs; some have parameters."""
    name, size = network.backbone, images.size or published_size(network)
    by_macs = parse_budget(budget, "match")[0] == "macs"
    for group, act in [(acts, "native")] if by_macs else [([act], act) for act in acts]:
        try:
            found = match_text(budget, size, name, conv, act, over=over, key="match", **_settings(images, size))
        except ConvzooError as error:
            yield from (CellCost(name, conv, act, refused=_reason(error)) for act in group)
        else:
            yield from _count(network, conv, group, images, found)


def _need_complete(backbone: str) -> None:
    """Once per network: rewriting its convolutions changes nothing about its activations."""
    if reason := _why_incomplete(backbone):
        raise ConvzooError(reason)


@cache
def _why_incomplete(backbone: str) -> str | None:
    with meta_init():
        net = timm.create_model(backbone)
    try:
        check_complete(net, SWAPPED)
    except ConvzooError as error:
        return str(error)
    return None


def _with_params_of(net: nn.Module, cost: Cost) -> Cost:
    params = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return replace(cost, params=sum(n for n, _ in params), params_trainable=sum(n for n, trains in params if trains))


def _reason(error: ConvzooError) -> str:
    return " ".join(str(error).split())
