"""Where a network's logical k×k convolutions are, and which of its convolutions are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from timm.layers import Conv2dSame
from torch import nn

from zoo.blocks import Changes, halves, is_depthwise
from zoo.convs import FACTORED, KINDS, ConvSpec, Factored
from zoo.errors import UnfitError
from zoo.stem import stem_convs

HEADS = {"head", "classifier", "fc", "pre_logits"}
REPARAMETERISED = ("reparameterize", "switch_to_deploy", "fuse")


@dataclass(frozen=True)
class Site:
    """One logical convolution C→C′ of a network.

    Attributes:
        name: The module it is: one convolution, or a block of which it is the larger part.
        spec: What it does; the groups are those of the network.
        forms: The conv kinds that it has already.
        changes: From the module that realises it to what stands where, relative to ``name``.
    """

    name: str
    module: nn.Module
    spec: ConvSpec
    forms: frozenset[str]
    changes: Changes


@dataclass(frozen=True)
class Kept:
    """A convolution that no kind acts on, and why."""

    name: str
    module: nn.Module
    reason: str


def find_sites(net: nn.Module) -> Iterator[Site | Kept]:
    """Walks a network in the order of its modules.

    Raises:
        ConvzooError: Something that cannot be rewritten faithfully (weight-standardised or conditional convolutions,
            mixed kernel sizes, re-parameterised blocks).
    """
    stem = stem_convs(net)
    done: set[str] = set()
    for name, module in net.named_modules():
        if name in done or name.rpartition(".")[0] in done:
            done.add(name)
            continue
        _refuse(name, module)
        if isinstance(module, Factored):
            done.add(name)
            yield _factored(name, module, stem)
        elif half := halves(module):
            done |= {f"{name}.{part}".lstrip(".") for part in half.parts}
            yield Site(name, module, half.spec, half.forms, half.changes)
        elif _is_convolution(module) and max(module.kernel_size) > 1:
            reason = _reason_to_keep(name, module, stem)
            if reason:
                yield Kept(name, module, reason)
            else:
                yield Site(name, module, ConvSpec.of(module), _forms(module), lambda conv: {"": conv})


def _factored(name: str, module: Factored, stem: set[str]) -> Site | Kept:
    """What stands there from an earlier rewriting."""
    reason = _reason_by_name(name, stem)
    if reason:
        return Kept(name, module, reason)
    forms = frozenset(kind for kind in FACTORED if type(module) is KINDS[kind])
    return Site(name, module, module.spec, forms, lambda conv: {"": conv})


def _refuse(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if any(callable(getattr(module, method, None)) for method in REPARAMETERISED):
        raise UnfitError(
            f"{name or 'the network'} is a {kind}: a re-parameterised block, whose parallel branches are one "
            "convolution in the end. Rewriting each branch would make another network. Use conv=native with it."
        )
    if kind == "MixedConv2d":
        raise UnfitError(
            f"{name} is a {kind}: several kernel sizes in one depthwise convolution, which is no k×k convolution. "
            "Use conv=native with this network."
        )


def _is_convolution(module: nn.Module) -> bool:
    has_kernel = isinstance(getattr(module, "kernel_size", None), tuple)
    return has_kernel and next(module.parameters(recurse=False), None) is not None


def _reason_by_name(name: str, stem: set[str]) -> str | None:
    if any(f"{conv}.".startswith(f"{name}.") for conv in stem):
        return "stem"
    return "head" if HEADS & set(name.split(".")) else None


def _reason_to_keep(name: str, conv: nn.Module, stem: set[str]) -> str | None:
    """Why a convolution is never rewritten; None where it is a site."""
    if reason := _reason_by_name(name, stem):
        return reason
    if isinstance(conv, (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd)):
        return "not a 2-D convolution" if not isinstance(conv, nn.ConvTranspose2d) else "transposed"
    if conv.kernel_size == conv.stride and conv.padding in (0, (0, 0), "valid"):
        return "patchify (kernel = stride)"
    if type(conv) not in (nn.Conv2d, Conv2dSame):
        raise UnfitError(
            f"{name} is a {type(conv).__name__}: its weights are computed in a way that no conv kind would keep. "
            "Only nn.Conv2d and timm's Conv2dSame can be rewritten. Use conv=native with this network."
        )
    return None


def _forms(conv: nn.Conv2d) -> frozenset[str]:
    """The kinds that a single convolution is an instance of."""
    forms = set()
    if conv.groups == 1:
        forms.add("standard")
    if is_depthwise(conv):
        forms |= {"separable", "blueprint"}
    if min(conv.kernel_size) == 1:
        forms.add("spatial")
        forms |= {"separable_spatial"} if is_depthwise(conv) else set()
    return frozenset(forms)
