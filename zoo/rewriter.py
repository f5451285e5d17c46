"""Rewrites a network's convolutions in place, and says what it did with each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zoo.convs import KINDS
from zoo.errors import ConvzooError, choose
from zoo.sites import Site, find_sites

ALIASES = {"depthwise_separable": "separable"}


@dataclass(frozen=True)
class Entry:
    """What became of one convolution (or block).

    Attributes:
        became: The conv kind it was rewritten to; None where it was kept.
        reason: Why it was kept; None where it was rewritten.
        params_before, params_after: Parameters of the module at ``name``.
    """

    name: str
    was: str
    became: str | None
    reason: str | None
    params_before: int
    params_after: int


@dataclass(frozen=True)
class Report:
    """What `rewrite` did with a network, convolution by convolution."""

    conv: str
    entries: tuple[Entry, ...] = ()

    @property
    def rewritten(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if e.became)

    @property
    def kept(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if not e.became)

    @property
    def raised(self) -> tuple[Entry, ...]:
        """Rewritten, and larger than before (a grouped convolution made separable, say)."""
        return tuple(e for e in self.rewritten if e.params_after > e.params_before)

    def __str__(self) -> str:
        lines = [f"conv={self.conv}: {len(self.rewritten)} rewritten, {len(self.kept)} kept"]
        for e in self.entries:
            what = f"→ {e.became}" if e.became else f"kept: {e.reason}"
            lines.append(f"  {e.name:<32} {e.was:<24} {what:<32} {e.params_before:>10,} → {e.params_after:>10,} params")
        return "\n".join(lines)


def rewrite(net: nn.Module, conv: str) -> Report:
    """Gives every logical convolution of a network the form ``conv``, in place. New weights are random.

    Never rewritten: the stem, patchify convolutions, heads, 1×1. A convolution that has the form already is kept with
    its weights, so rewriting twice changes nothing.

    Args:
        net: Any network made of `nn.Conv2d`, timm's or one's own.
        conv: ``native`` (leaves everything alone), ``standard``, ``separable``
            (or ``depthwise_separable``), ``spatial``.

    Raises:
        ConvzooError: An unknown kind; a network without a convolution that the kind could act on; a convolution of a
            type that cannot be rewritten. The network is as it was.
    """
    conv = choose("conv", ALIASES.get(conv, conv), ["native", *KINDS])
    if conv == "native":
        return Report(conv)
    found = list(find_sites(net))
    if not any(isinstance(site, Site) for site in found):
        raise ConvzooError(
            f"{type(net).__name__} has no convolution that conv={conv} could act on"
            + (f" ({', '.join(sorted({site.reason for site in found}))} only)." if found else " (no k×k convolution).")
            + " Use conv=native, or another network: a ConvNet such as resnet, effnet or mobilenet."
        )
    return Report(conv, tuple(_rewrite_one(net, site, conv) for site in found))


def _rewrite_one(net: nn.Module, site: Site, conv: str) -> Entry:
    before = _params(site.module)
    was = type(site.module).__name__
    if not isinstance(site, Site):
        return Entry(site.name, was, None, site.reason, before, before)
    spec = site.spec
    was = f"{was} {spec.in_channels}→{spec.out_channels} {spec.kernel_size[0]}×{spec.kernel_size[1]}"
    if conv in site.forms:
        return Entry(site.name, was, None, f"{conv} already", before, before)
    new = site.wrap(KINDS[conv](spec)).train(site.module.training)
    net.set_submodule(site.name, new)
    return Entry(site.name, was, conv, None, before, _params(new))


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
