"""Finds a network's logical k×k convolutions, and says why the others are skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from timm.layers import Conv2dSame
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from zoo.backbones.stem import stem_convs
from zoo.convs import KINDS, ConvSpec, Factored
from zoo.errors import UnfitError
from zoo.places import Edit, places_of
from zoo.surgery.blocks import Changes, is_depthwise, match_block
from zoo.surgery.branches import merging_modules
from zoo.surgery.computed_weights import why_computed

HEADS = {"head", "classifier", "fc", "pre_logits"}


@dataclass(frozen=True)
class Site:
    """One logical convolution C→C′ of a network.

    Attributes:
        name: Name of its module: a single convolution, or the block whose larger part it is.
        spec: The logical convolution; its groups are those of the network.
        forms: The conv kinds that it already is.
        changes: From the module that realises it to the modules to put in place, by name relative to ``name``.
    """

    name: str
    module: nn.Module
    spec: ConvSpec
    forms: frozenset[str]
    changes: Changes

    def edit(self, new: nn.Module) -> Edit:
        """Returns the replacement of this convolution by ``new``, which takes over its training mode."""
        return Edit(self.name, self.changes(new.train(self.module.training)), new)


@dataclass(frozen=True)
class SkippedConv:
    """A convolution that no kind replaces, and the reason."""

    name: str
    module: nn.Module
    reason: str


def find_sites(net: nn.Module) -> list[Site | SkippedConv]:
    """Finds the logical and the skipped convolutions of a network, in the order of its modules.

    Raises:
        UnfitError: A part cannot be rewritten faithfully: convolutions whose weights are computed (weight
            standardisation, norms, masks), mixed kernel sizes, re-parameterised blocks, adapters.
    """
    stem, together = stem_convs(net), merging_modules(net)
    found: list[Site | SkippedConv] = []
    unfit: list[str] = []
    done: set[str] = set()
    for module, names in places_of(net).items():
        name = names[0]
        if name in done or name.rpartition(".")[0] in done:
            done.add(name)
            continue
        reason = next(filter(None, (_reason_by_name(n, stem) for n in names)), None)
        if module in together and not reason:
            unfit.append(f"{name or 'the network'} ({type(module).__name__}) {together[module]}")
            done.add(name)
        elif type(module).__name__ == "MixedConv2d":
            unfit.append(f"{name} (MixedConv2d) has several kernel sizes in one, and is not a k×k convolution")
            done.add(name)
        elif isinstance(module, Factored):
            done.add(name)
            if not reason:
                factors = {n: m for n, m in module.named_children() if n != "between"}
                unfit += [f"{name}.{n} is a {type(m).__name__}" for n, m in factors.items() if not _is_convolution(m)]
                unfit += _unfit_parts(name, factors, module)
            found.append(SkippedConv(name, module, reason) if reason else _factored(name, module))
        elif half := match_block(module):
            done |= {f"{name}.{part}".lstrip(".") for part in half.parts}
            unfit += _unfit_parts(name, half.parts, module)
            found.append(Site(name, module, half.spec, half.forms, half.changes))
        elif _is_convolution(module) and max(module.kernel_size) > 1:
            if reason := reason or _reason_to_keep(module):
                found.append(SkippedConv(name, module, reason))
            elif why := why_computed(module) or _why_no_kind(module):
                unfit.append(f"{name} has {why}")
            else:
                found.append(Site(name, module, ConvSpec.of(module), _forms(module), lambda conv: {"": conv}))
    if unfit:
        more = f"; and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise UnfitError(
            f"{'; '.join(unfit[:3])}{more}. As plain convolutions they would compute something else. Fuse, merge "
            "or remove that first, or use conv=native."
        )
    return found


def _unfit_parts(name: str, parts: Iterable[str], module: nn.Module) -> Iterator[str]:
    """Yields the convolutions in some parts of a module whose computed weights a rewrite would lose, and why."""
    for part in parts:
        for inner, conv in module.get_submodule(part).named_modules(prefix=f"{name}.{part}".lstrip(".")):
            if _is_convolution(conv) and (why := why_computed(conv) or _why_no_kind(conv)):
                yield f"{inner} has {why}"


def _factored(name: str, module: Factored) -> Site:
    """Returns the site of a module that an earlier rewrite made."""
    forms = frozenset(name for name, kind in KINDS.items() if type(module) is kind.make)
    return Site(name, module, module.spec, forms, lambda conv: {"": conv})


def _is_convolution(module: nn.Module) -> bool:
    if not isinstance(getattr(module, "kernel_size", None), tuple):
        return False
    # A parametrized convolution may have no parameter of its own.
    return isinstance(module, _ConvNd) or next(module.parameters(recurse=False), None) is not None


def _reason_by_name(name: str, stem: set[str]) -> str | None:
    if any(f"{conv}.".startswith(f"{name}.") for conv in stem):
        return "stem"
    return "head" if HEADS & set(name.split(".")) else None


def _reason_to_keep(conv: nn.Module) -> str | None:
    """Returns why a convolution is never rewritten, wherever it stands; None if it may be."""
    if isinstance(conv, (nn.Conv1d, nn.Conv3d, _ConvTransposeNd)):
        return "not a 2-D convolution" if not isinstance(conv, nn.ConvTranspose2d) else "transposed"
    if conv.kernel_size == conv.stride and conv.padding in (0, (0, 0), "valid"):
        return "patchify (kernel = stride)"
    return None


def _why_no_kind(conv: nn.Module) -> str | None:
    """Returns why no kind can replace a convolution of this type; None if one can."""
    if type(conv) in (nn.Conv2d, Conv2dSame):
        return None
    return f"type {type(conv).__name__}, which may compute its weights (only nn.Conv2d and Conv2dSame are rewritten)"


def _forms(conv: nn.Conv2d) -> frozenset[str]:
    """Returns the kinds that a single convolution is an instance of."""
    forms = set()
    if conv.groups == 1:
        forms.add("standard")
    if is_depthwise(conv):
        forms |= {"separable", "blueprint"}
    if min(conv.kernel_size) == 1:
        forms.add("spatial")
        forms |= {"separable_spatial"} if is_depthwise(conv) else set()
    return frozenset(forms)
