"""Converts a trained dense network to low-rank factors: in place, in closed form, without data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from zoo.compression.low_rank import FORMS, Rank, check_rank, factorise
from zoo.convs import KINDS, Factored, find_kind
from zoo.errors import ConvzooError
from zoo.places import Edit, carry_out
from zoo.surgery.rewrite import Entry, Report, entry_of, params_of
from zoo.surgery.sites import Site, SkippedConv, find_sites


@dataclass(frozen=True)
class Converted(Entry):
    """The outcome for one convolution.

    Attributes:
        rank, full_rank: Singular values kept of each of its matrices, and how many each has; None if not converted.
        energy: Share of the squared weights that the factors retain, from 0 to 1; None if not converted.
    """

    rank: int | None = None
    full_rank: int | None = None
    energy: float | None = None

    @property
    def outcome(self) -> str:
        """What became of the convolution, as text."""
        return (
            f"rank {self.rank:>4} of {self.full_rank:<5} energy {self.energy:.4f}" if self.became else super().outcome
        )


@dataclass(frozen=True)
class ConversionReport(Report):
    """The outcome of `convert`, convolution by convolution."""

    entries: tuple[Converted, ...] = ()

    @property
    def ranks(self) -> dict[str, int]:
        """Name → rank of the converted convolutions; `zoo.build` needs it to make a network of the same structure."""
        return {e.name: e.rank for e in self.rewritten}

    @property
    def energy_min(self) -> float | None:
        """Lowest energy of all converted layers; None if nothing was converted."""
        return min((e.energy for e in self.rewritten), default=None)

    @property
    def energy_mean(self) -> float | None:
        """Mean energy of the converted layers, each counted once; None if nothing was converted."""
        energies = [e.energy for e in self.rewritten]
        return sum(energies) / len(energies) if energies else None

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        energy = f"; energy kept: mean {self.energy_mean:.4f}, least {self.energy_min:.4f}" if self.rewritten else ""
        return f"{len(self.rewritten)} converted, {len(self.kept)} kept{energy}"


def convert(net: nn.Module, conv: str, rank: Rank = None) -> ConversionReport:
    """Gives every logical convolution of a *trained* network the form ``conv``, in place, from its own weights.

    Each kernel is replaced by its closest factors (`zoo.compression.low_rank`); at full rank the network computes the
    same as before. Convolutions that `zoo.rewrite` keeps are kept. With the default rank the result has the structure
    of ``zoo.build(..., conv)``: the same modules and state_dict keys. Re-estimate the BatchNorms
    (`reestimate_batchnorm`) before measuring accuracy.

    Args:
        net: Any network made of `nn.Conv2d`, with its trained weights.
        conv: ``separable``, ``blueprint`` or ``spatial``; ``native`` changes nothing.
        rank: Singular values to keep of each matrix (int), share of each layer's energy to keep (float in (0, 1]), or
            None for the rank of the zoo's own cells; see `zoo.compression.low_rank.factorise`.

    Raises:
        ConvzooError: The kind has no closed form, the rank is invalid, or the network has no convolution to convert or
            has one that no closed form fits. The network is unchanged.
    """
    conv = choose_form(conv)
    check_rank(rank)
    if conv == "native":
        return ConversionReport(conv)
    found = find_sites(net)
    if not any(isinstance(site, Site) for site in found):
        raise ConvzooError(f"{type(net).__name__} has no convolution to convert to conv={conv}.")
    for site in found:
        _check_site(site, conv)
    results = [_factorise(site, conv, rank) for site in found]
    carry_out(net, [edit for _, edit in results if edit], f"conv={conv}")
    return ConversionReport(conv, tuple(entry for entry, _ in results))


def choose_form(conv: str) -> str:
    """Returns the conv kind, with aliases resolved; raises ConvzooError if `convert` does not support it."""
    kind = find_kind(conv, "native")
    if kind in KINDS and kind not in FORMS:
        raise ConvzooError(
            f"conv={kind} has no closed form from trained kernels. Allowed: {', '.join(['native', *FORMS])}; or start "
            "from random weights (init=random)."
        )
    return kind


def _check_site(site: Site | SkippedConv, conv: str) -> None:
    if isinstance(site, SkippedConv) or conv in site.forms or isinstance(site.module, nn.Conv2d):
        return
    if isinstance(site.module, Factored):
        has = next(iter(site.forms))
        raise ConvzooError(
            f"{site.name} is {has} already: it has factors, and no k×k kernel to make conv={conv} of. Type conv={has}, "
            "or start from a trained dense network (conv=standard)."
        )
    raise ConvzooError(
        f"{site.name} is a {type(site.module).__name__}: it has a BatchNorm and an activation between its pointwise "
        f"and its depthwise convolution, so no factors of its kernels make it conv={conv}. Type conv=native or "
        "conv=separable, which it is already; or start from a trained dense network (conv=standard)."
    )


def _factorise(site: Site | SkippedConv, conv: str, rank: Rank) -> tuple[Converted, Edit | None]:
    entry = entry_of(site, conv, Converted)
    if entry.reason:
        return entry, None
    try:
        made = factorise(site.module, conv, rank)
    except ConvzooError as error:
        raise ConvzooError(f"{site.name}: {error}") from None
    outcome = {"rank": made.rank, "full_rank": made.full_rank, "energy": made.energy}
    return replace(entry, became=conv, params_after=params_of(made.module), **outcome), site.edit(made.module)


def reestimate_batchnorm(net: nn.Module, batches: Iterable[torch.Tensor | tuple[torch.Tensor, ...]]) -> None:
    """Re-estimates the running statistics of a network's BatchNorms, in place (`torch.optim.swa_utils.update_bn`).

    Conversion changes the distribution of activations, so the old statistics no longer fit. The new ones are the plain
    average over the batches; weights and mode do not change.

    Args:
        net: Any network. Without a BatchNorm nothing happens.
        batches: Images (N, C, H, W) as in training, or tuples that begin with them; a few hundred images in total are
            enough. They are moved to the network's device.

    Raises:
        ConvzooError: There is no batch, which would leave the statistics empty.
    """
    iterator = iter(batches)
    if (first := next(iterator, None)) is None:
        raise ConvzooError("re-estimating BatchNorms needs at least one batch of images.")
    update_bn(chain([first], iterator), net, next(net.parameters()).device)
