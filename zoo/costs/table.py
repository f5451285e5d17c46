"""The cost table: counts hundreds of cells on the meta device, without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import timm
from torch import nn
from tqdm import tqdm

from zoo.acts.activations import ACTS, replace_activations, swappable
from zoo.acts.functional import check_complete
from zoo.backbones.families import FAMILIES, Network
from zoo.backbones.names import find_networks, published_size
from zoo.backbones.stem import STEMS, stem_for
from zoo.convs import KINDS, find_kind
from zoo.costs.budget import parse_budget
from zoo.costs.counting import Cost, LayerCost, layer_costs
from zoo.costs.forks import mapped
from zoo.costs.matching import OVERS, Match, match_text
from zoo.costs.reuse import Reuse
from zoo.errors import ConvzooError, choose
from zoo.image_size import Size
from zoo.meta import meta_init
from zoo.surgery.rewrite import params_of

if TYPE_CHECKING:
    from zoo.costs.table_time import CellSpeed


def all_convs() -> tuple[str, ...]:
    """Returns every conv kind, a plugin's included."""
    return ("native", *KINDS)


def all_acts() -> tuple[str, ...]:
    """Returns every activation, a plugin's included."""
    return ("native", *ACTS)


@dataclass(frozen=True)
class CellCost:
    """One row of the table.

    Attributes:
        model: timm's name of the network.
        conv, act: Conv kind and activation, or ``native``.
        cost: Cost of the cell; None if the cell does not exist.
        refused: Why it does not exist.
        match: The width or φ that meets the budget, if one was given.
        speed: Speed, if measured (`zoo.costs.table_time`).
        untimed: Why its speed could not be measured.
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
    """Inputs and outputs of the networks.

    Attributes:
        size: H = W or (H, W); None for the published size of each network.
        in_chans: Channels.
        num_classes: Classes.
        stem: ``imagenet`` as published, ``small``, or ``auto``: small for images of up to 64 pixels.
    """

    size: Size | None = None
    in_chans: int = 3
    num_classes: int = 1000
    stem: str = "auto"

    def arguments(self, size: Size) -> dict[str, Any]:
        """Returns the arguments of `zoo.build` for images of this size."""
        return {"num_classes": self.num_classes, "in_chans": self.in_chans, "stem": stem_for(self.stem, size)}


PUBLISHED = Images()


def tabulate(
    models: Iterable[str] = FAMILIES,
    convs: Iterable[str] | None = None,
    acts: Iterable[str] = ("native",),
    images: Images = PUBLISHED,
    *,
    match: str | None = None,
    over: str = "width",
    progress: bool = False,
    processes: int = 1,
) -> list[CellCost]:
    """Counts every cell of models × convs × acts. A cell that does not exist is included, with the reason.

    Args:
        models: As for `find_networks`; all families by default.
        convs: Conv kinds, including ``native``; all by default.
        acts: Activations, likewise; only ``native`` by default.
        images: Inputs and outputs of the networks; as published by default.
        match: A budget for every cell, as for `zoo.costs.matching.match_text`: each cell is counted at the ``width`` or
            ``phi`` (``over``) nearest to it. A network without a width, or a budget out of reach, is refused.
        over: ``width`` or ``phi``.
        progress: Show a progress bar if standard error is a terminal.
        processes: Number of processes. They are forks of this one, which should have no other threads running.

    Raises:
        ConvzooError: An unknown model, conv kind, activation or stem; a ``match`` that is not a budget.
    """
    if match is not None:
        parse_budget(match, "match")
        choose("over", over, OVERS)
    convs = [find_kind(conv, "native") for conv in (all_convs() if convs is None else convs)]
    acts = [ACTS.choose(act, "native") for act in acts]
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
    """Counts one cell layer by layer.

    Raises:
        ConvzooError: The cell does not exist, or ``model`` stands for several networks.
    """
    network, *others = find_networks([model])
    if others:
        raise ConvzooError(
            f"model={model} stands for {1 + len(others)} networks. Name one, such as model={network.backbone}."
        )
    size = images.size or published_size(network)
    with Reuse().network(network.backbone, conv, act, phi=network.phi, **images.arguments(size)) as net:
        return layer_costs(net, size, images.in_chans)


@cache
def _reuse() -> Reuse:
    """Returns the cache of this process."""
    return Reuse()


def _count_network(
    network: Network, convs: Sequence[str], acts: Sequence[str], images: Images, budget: str | None, over: str
) -> list[CellCost]:
    return [cell for conv in convs for cell in _count(network, conv, acts, images, budget, over)]


def _count(
    network: Network, conv: str, acts: Sequence[str], images: Images, budget: str | None, over: str
) -> Iterator[CellCost]:
    """Counts one network for all activations: they have no MACs, so only their own parameters make a difference."""
    name, size, reuse = network.backbone, images.size or published_size(network), _reuse()
    arguments = images.arguments(size)
    each = budget is not None and parse_budget(budget, "match")[0] == "params"
    # With a budget in parameters, each activation is matched by itself.
    for group, act in [([act], act) for act in acts] if each else [(acts, "native")]:
        try:
            found, scale = None, {"phi": network.phi}
            if budget is not None:
                found = match_text(budget, size, name, conv, act, over=over, key="match", **arguments)
                scale = {found.over: found.value}
            with reuse.network(name, conv, **arguments, **scale) as net:
                native = found.cost if found else reuse.cost(net, size, images.in_chans)
                yield from _with_activations(name, conv, group, net, native, found)
        except ConvzooError as error:
            yield from (CellCost(name, conv, act, refused=_reason(error)) for act in group)


def _with_activations(
    name: str, conv: str, acts: Sequence[str], net: nn.Module, native: Cost, found: Match | None
) -> Iterator[CellCost]:
    """Yields a cell per activation. Those with equally many parameters cost the same, so only one of them is tried."""
    known: dict[int, CellCost] = {}
    for act in acts:
        params = _params_of_one(act)
        if params not in known or known[params].refused:  # A refusal names the activation.
            known[params] = _with_activation(name, conv, act, net, native, found)
        yield replace(known[params], act=act)


@cache
def _params_of_one(act: str) -> int:
    return -1 if act == "native" else params_of(ACTS[act]())


def _with_activation(name: str, conv: str, act: str, net: nn.Module, native: Cost, found: Match | None) -> CellCost:
    counted = native
    if act != "native":
        # Rewriting convolutions does not change a network's activations, so the answer holds for every conv kind.
        if reason := _why_incomplete(name):
            return CellCost(name, conv, act, refused=reason)
        try:
            replace_activations(net, act)
        except ConvzooError as error:
            return CellCost(name, conv, act, refused=_reason(error))
        counted = _with_params_of(net, native)
    return CellCost(name, conv, act, counted, match=found and replace(found, cost=counted))


@cache
def _why_incomplete(backbone: str) -> str | None:
    """Returns why some activations of a network cannot be swapped; None if all can."""
    with meta_init():
        net = timm.create_model(backbone)
    try:
        check_complete(net, swappable())
    except ConvzooError as error:
        return _reason(error)
    return None


def _with_params_of(net: nn.Module, cost: Cost) -> Cost:
    params = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return replace(cost, params=sum(n for n, _ in params), params_trainable=sum(n for n, trains in params if trains))


def _reason(error: ConvzooError) -> str:
    return " ".join(str(error).split())
