"""Rewrites a network's convolutions in place, and reports the outcome for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zoo.acts.activations import activations
from zoo.convs import KINDS, ConvSpec, closed_forms, find_kind, kind_options, make_conv
from zoo.errors import ConvzooError, UnfitError, choose
from zoo.meta import meta_init
from zoo.places import Edit, carry_out
from zoo.surgery.sites import Site, SkippedConv, find_sites


@dataclass(frozen=True)
class Entry:
    """The outcome for one convolution (or block).

    Attributes:
        became: The conv kind it was rewritten to; None if it was kept.
        reason: Why it was kept; None if it was rewritten.
        params_before, params_after: Parameters of the module at ``name``.
    """

    name: str
    was: str
    became: str | None
    reason: str | None
    params_before: int
    params_after: int

    @property
    def outcome(self) -> str:
        """What became of the convolution, as text."""
        return f"→ {self.became}" if self.became else f"kept: {self.reason}"


@dataclass(frozen=True)
class Report:
    """The outcome of `rewrite`, convolution by convolution."""

    conv: str
    entries: tuple[Entry, ...] = ()

    @property
    def rewritten(self) -> tuple[Entry, ...]:
        """Entries that were rewritten."""
        return tuple(e for e in self.entries if e.became)

    @property
    def kept(self) -> tuple[Entry, ...]:
        """Entries that were kept, each with its reason."""
        return tuple(e for e in self.entries if not e.became)

    @property
    def raised(self) -> tuple[Entry, ...]:
        """Rewritten entries with more parameters than before (for example a grouped convolution made separable)."""
        return tuple(e for e in self.rewritten if e.params_after > e.params_before)

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        return f"{len(self.rewritten)} rewritten, {len(self.kept)} kept"

    def __str__(self) -> str:
        width = max([28, *(len(e.outcome) for e in self.entries)])
        lines = [f"conv={self.conv}: {self.summary}"]
        for e in self.entries:
            params = f"{e.params_before:>10,} → {e.params_after:>10,} params"
            lines.append(f"  {e.name:<28} {e.was:<38} {e.outcome:<{width}} {params}")
        return "\n".join(lines)


def rewrite(net: nn.Module, conv: str, **options: Any) -> Report:
    """Gives every logical convolution of a network the form ``conv``, in place. New weights are random.

    The stem, patchify convolutions, heads and 1×1 convolutions are never rewritten. A convolution that already has the
    form keeps its weights, so a second rewrite changes nothing.

    Args:
        net: Any network made of `nn.Conv2d`, timm's or your own.
        conv: ``native`` (changes nothing), ``depthwise_separable`` (= ``separable``) or a key of `zoo.convs.KINDS`.
        **options: Options of the kind; None stands for the default. ``between="bn_act"`` puts BatchNorm and an
            activation between the factors of a factored kind. ``groups`` or ``group_size`` belong to ``grouped``: a
            convolution whose channels cannot be split like that gets the largest possible number of groups below.

    Raises:
        ConvzooError: The kind or an option is invalid, the network has no convolution that the kind can replace, or
            has one of a type that cannot be rewritten. The network is unchanged.
    """
    conv = find_kind(conv, "native")
    check_options(conv, options)
    if conv == "native":
        return Report(conv)
    found = find_sites(net)
    if not any(isinstance(site, Site) for site in found):
        raise UnfitError(
            f"{type(net).__name__} has no convolution that conv={conv} could act on"
            + (f" ({', '.join(sorted({site.reason for site in found}))} only)." if found else " (no k×k convolution).")
            + " Use conv=native, or another network: a ConvNet such as resnet, effnet or mobilenet."
        )
    arguments = kind_options(conv, options, _own_activation(net))
    results = [_rewrite_one(site, conv, arguments) for site in found]
    carry_out(net, [edit for _, edit in results if edit], f"conv={conv}")
    entries = (replace(e, params_after=params_of(net.get_submodule(e.name))) if e.became else e for e, _ in results)
    return Report(conv, tuple(entries))


def check_options(conv: str, options: Mapping[str, Any]) -> None:
    """Checks the options of a conv kind, each by itself and all together.

    Raises:
        ConvzooError: An option does not exist, or its value is not allowed.
    """
    if conv == "native":
        if given := [f"conv.{key}" for key, value in options.items() if value not in (None, "none")]:
            raise ConvzooError(f"conv=native has no options. Leave out {', '.join(given)}.")
        return
    with meta_init():
        make_conv(conv, ConvSpec(8, 8, (3, 3)), kind_options(conv, options))


def give_ranks(net: nn.Module, conv: str, ranks: Mapping[str, int]) -> None:
    """Gives the convolutions named in ``ranks`` the form ``conv`` at these ranks, in place. New weights are random.

    The result has the structure that `zoo.convert` made, so that its weights can be loaded. A convolution inside an
    MBConv block (of the dense network that ``conv="standard"`` makes) stands for the block's logical convolution.

    Raises:
        ConvzooError: A name is not one of the network's convolutions.
    """
    conv = choose("conv", find_kind(conv), closed_forms())
    sites = [site for site in find_sites(net) if isinstance(site, Site)]
    edits = []
    for name, rank in ranks.items():
        site = next((s for s in sites if f"{name}.".startswith(f"{s.name}.")), None)
        if site is None:
            raise ConvzooError(f"ranks names {name}, which is not a k×k convolution of this {type(net).__name__}.")
        edits.append(site.edit(KINDS[conv](site.spec, rank=rank)))
    carry_out(net, edits, f"conv={conv}")


def _own_activation(net: nn.Module) -> type[nn.Module]:
    """Returns the activation that the network uses most; ReLU if it has none."""
    used = Counter(type(module) for module in activations(net).values())
    return used.most_common(1)[0][0] if used else nn.ReLU


def _rewrite_one(site: Site | SkippedConv, conv: str, options: Mapping[str, Any]) -> tuple[Entry, Edit | None]:
    """Returns the report entry of one convolution, and the edit that carries it out (None if it is kept)."""
    entry = entry_of(site, conv)
    if entry.reason:
        return entry, None
    spec = site.spec
    if reason := _why_not(conv, spec):
        return replace(entry, reason=reason), None
    new = make_conv(conv, spec, options).to(spec.device, spec.dtype)
    grouped = isinstance(new, nn.Conv2d) and "groups" in KINDS[conv].options
    became = f"{conv} g={new.groups}" if grouped else conv
    if isinstance(new, nn.Conv2d) and isinstance(site.module, nn.Conv2d) and ConvSpec.of(new) == spec:
        return replace(entry, reason=f"{became} already"), None
    return replace(entry, became=became), site.edit(new)


def entry_of(site: Site | SkippedConv, conv: str, kind: type[Entry] = Entry) -> Entry:
    """Returns the report entry of a convolution before it changes, with the reason if it is kept."""
    was, params = type(site.module).__name__, params_of(site.module)
    if isinstance(site, SkippedConv):
        return kind(site.name, was, None, site.reason, params, params)
    spec = site.spec
    was += f" {spec.in_channels}→{spec.out_channels} {spec.kernel_size[0]}×{spec.kernel_size[1]}"
    was += f" g={spec.groups}" if spec.groups > 1 else ""
    return kind(site.name, was, None, f"{conv} already" if conv in site.forms else None, params, params)


def _why_not(conv: str, spec: ConvSpec) -> str | None:
    fits = KINDS[conv].traits["fits"]
    return fits(spec) if fits else None


def params_of(module: nn.Module) -> int:
    """Returns the number of parameters of a module, submodules included."""
    return sum(p.numel() for p in module.parameters())
