"""Converts a trained dense network to low-rank factors: in place, in closed form, without data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from zoo.convs import KINDS, ConvSpec, Factored, FromDense, closed_forms, find_kind, make_conv
from zoo.convs.low_rank import Rank, check_rank
from zoo.errors import ConvzooError
from zoo.places import Edit, carry_out, take_after
from zoo.surgery.rewrite import Entry, Report, entry_of, params_of
from zoo.surgery.sites import Site, SkippedConv, find_sites


@dataclass(frozen=True)
class Converted(Entry):
    """The outcome for one convolution.

    Attributes:
        rank, full_rank: Singular values kept of each of its matrices, and how many each has; None if not converted, or
            if its kind has no ranks.
        energy: Share of the squared weights that the factors retain, from 0 to 1; None if not converted.
    """

    rank: int | None = None
    full_rank: int | None = None
    energy: float | None = None

    @property
    def outcome(self) -> str:
        """What became of the convolution, as text."""
        if not self.became:
            return super().outcome
        rank = f"rank {self.rank:>4} of {self.full_rank:<5} " if self.rank is not None else ""
        return f"{rank}energy {self.energy:.4f}"


@dataclass(frozen=True)
class ConversionReport(Report):
    """The outcome of `convert`, convolution by convolution."""

    entries: tuple[Converted, ...] = ()

    @property
    def ranks(self) -> dict[str, int]:
        """Name → rank of the converted convolutions; `zoo.build` needs it to make a network of the same structure."""
        return {e.name: e.rank for e in self.rewritten if e.rank is not None}

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

    Each kernel is replaced by its closest factors (`zoo.convs.low_rank`); at full rank the network computes the
    same as before. Convolutions that `zoo.rewrite` keeps are kept. With the default rank the result has the structure
    of ``zoo.build(..., conv)``: the same modules and state_dict keys. Re-estimate the BatchNorms
    (`reestimate_batchnorm`) before measuring accuracy.

    Args:
        net: Any network made of `nn.Conv2d`, with its trained weights.
        conv: ``separable``, ``blueprint``, ``spatial``, or a kind of yours that has a ``from_dense``, with its default
            options; ``native`` changes nothing.
        rank: Singular values to keep of each matrix (int), share of each layer's energy to keep (float in (0, 1]), or
            None for the kind's own; see `factorise`.

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
    if kind in KINDS and kind not in closed_forms():
        allowed = ", ".join(["native", *closed_forms()])
        raise ConvzooError(
            f"conv={kind} has no closed form from trained kernels. Allowed: {allowed}; or start from random weights "
            "(init=random). A class of your own has one if it defines from_dense."
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
        module, made = factorise(site.module, conv, rank)
    except ConvzooError as error:
        raise ConvzooError(f"{site.name}: {error}") from None
    outcome = {"rank": made.rank, "full_rank": made.full_rank, "energy": made.energy}
    return replace(entry, became=conv, params_after=params_of(module), **outcome), site.edit(module)


def factorise(conv: nn.Conv2d, kind: str, rank: Rank = None) -> tuple[nn.Module, FromDense]:
    """Returns the module of a conv kind that is closest to a trained convolution, and what its ``from_dense`` said.

    Args:
        conv: Any stride, padding, dilation and groups; timm's ``Conv2dSame`` too. It is not changed.
        kind: One of `closed_forms`.
        rank: An int: singular values to keep of each matrix (at most all). A float in (0, 1]: as many as retain that
            share of the layer's energy, the same number for each of its matrices. None: the kind's own, which is
            min(C, C′)/g for ``spatial`` (C and C′ are the channels) and 1 otherwise.

    Raises:
        ConvzooError: The rank is invalid, the weights are on the meta device or not finite, or the kind's
            ``from_dense`` does not fit its module.
    """
    check_rank(rank)
    if conv.weight.is_meta or not conv.weight.isfinite().all():
        raise ConvzooError("a kernel on the meta device, or one with NaN or infinite weights, cannot be factorised.")
    spec = ConvSpec.of(conv)
    # float64, so that at full rank only the rounding of the weights themselves is lost.
    made = KINDS[kind].make.from_dense(conv.weight.detach().to(torch.float64), rank, spec)
    if not isinstance(made, FromDense):
        raise ConvzooError(f"conv={kind}: from_dense returned a {type(made).__name__}, not a zoo.FromDense.")
    module = make_conv(kind, spec, {} if made.rank is None else {"rank": made.rank})
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    biased = [layer for layer in layers.values() if layer.bias is not None]
    needs = {name: layer.weight.numel() for name, layer in layers.items()}
    if (has := {name: weight.numel() for name, weight in made.weights.items()}) != needs or len(biased) != spec.bias:
        raise ConvzooError(
            f"conv={kind}: from_dense made weights for {_sizes(has)}; the module's convolutions have {_sizes(needs)} "
            f"weights, and {len(biased)} of them a bias."
        )
    with torch.no_grad():
        for name, weight in made.weights.items():
            layers[name].weight.copy_(weight.reshape(layers[name].weight.shape))
        for layer in biased:
            layer.bias.copy_(conv.bias)
    take_after(module.train(conv.training), [conv])
    return module, made


def _sizes(weights: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in weights.items()) or "nothing"


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
