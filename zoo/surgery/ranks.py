"""Rebuilds the structure of a converted network, so that its weights can be loaded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from zoo.convs import KINDS, factored_kinds, find_kind
from zoo.errors import ConvzooError, choose
from zoo.places import Edit, carry_out
from zoo.surgery.sites import Site, find_sites


def give_ranks(net: nn.Module, conv: str, ranks: Mapping[str, int]) -> None:
    """Gives the convolutions named in ``ranks`` the form ``conv`` at these ranks, in place. New weights are random.

    The result has the structure that `convert` made, so that its weights can be loaded. A convolution inside an MBConv
    block (of the dense network that ``conv="standard"`` makes) stands for the block's logical convolution.

    Raises:
        ConvzooError: A name is not one of the network's convolutions.
    """
    conv = choose("conv", find_kind(conv), factored_kinds())
    sites = [site for site in find_sites(net) if isinstance(site, Site)]
    edits = []
    for name, rank in ranks.items():
        site = next((s for s in sites if f"{name}.".startswith(f"{s.name}.")), None)
        if site is None:
            raise ConvzooError(f"ranks names {name}, which is no k×k convolution of this {type(net).__name__}.")
        new = KINDS[conv](site.spec, rank=rank).train(site.module.training)
        edits.append(Edit(site.name, site.changes(new), new))
    carry_out(net, edits, f"conv={conv}")
