"""Where a network's logical k×k convolutions are.

A *site* is one logical convolution C→C′ and the way to put another realisation in its place. Most sites are a single
`nn.Conv2d`. Two blocks of timm are sites as a whole, because their depthwise convolution is half of a logical one:

- ``InvertedResidual`` (MBConv; MobileNetV2/V3, EfficientNet) is separable by nature. Its logical convolution goes from
  the block's input to the expanded channels, as in Fused-MBConv, which is timm's ``EdgeResidual``.
  ``DepthwiseSeparableConv`` with a linear output is the same block with expansion 1.
- ``DepthwiseSeparableConv`` with an activation at its end (MobileNetV1) is one logical convolution from the block's
  input to its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from timm.layers import Conv2dSame
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import nn

from zoo.convs import ConvSpec
from zoo.errors import ConvzooError
from zoo.stem import stem_convs

HEADS = {"head", "classifier", "fc", "pre_logits"}


@dataclass(frozen=True)
class Site:
    """One logical convolution of a network.

    Attributes:
        forms: The conv kinds that it has already.
        wrap: Makes the module that stands at ``name`` from the module that realises ``spec``.
    """

    name: str
    module: nn.Module
    spec: ConvSpec
    forms: frozenset[str]
    wrap: Callable[[nn.Module], nn.Module] = lambda realised: realised


@dataclass(frozen=True)
class Kept:
    """A convolution that no kind acts on, and why."""

    name: str
    module: nn.Module
    reason: str


def find_sites(net: nn.Module) -> Iterator[Site | Kept]:
    """Walks a network in the order of its modules.

    Raises:
        ConvzooError: A convolution of a type that cannot be rewritten faithfully (weight-standardised, conditional …).
    """
    stem = stem_convs(net)
    inside_block = ()
    for name, module in net.named_modules():
        if inside_block and name.startswith(inside_block):
            continue
        if block := _block_site(name, module):
            inside_block = (*inside_block, name + ".")
            yield block
        elif _is_convolution(module) and max(module.kernel_size) > 1:
            reason = _reason_to_keep(name, module, stem)
            yield Kept(name, module, reason) if reason else Site(name, module, ConvSpec.of(module), _forms(module))


def _is_convolution(module: nn.Module) -> bool:
    has_weights = next(module.parameters(recurse=False), None) is not None
    return has_weights and isinstance(getattr(module, "kernel_size", None), tuple)


def _reason_to_keep(name: str, conv: nn.Module, stem: set[str]) -> str | None:
    """Why a convolution is never rewritten; None where it is a site."""
    if name in stem:
        return "stem"
    if HEADS & set(name.split(".")):
        return "head"
    if isinstance(conv, (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd)):
        return "not a 2-D convolution" if not isinstance(conv, nn.ConvTranspose2d) else "transposed"
    if conv.kernel_size == conv.stride and conv.padding in (0, (0, 0), "valid"):
        return "patchify (kernel = stride)"
    if type(conv) not in (nn.Conv2d, Conv2dSame):
        raise ConvzooError(
            f"{name} is a {type(conv).__name__}: its weights are computed in a way that no conv kind would keep. "
            "Only nn.Conv2d and timm's Conv2dSame can be rewritten. Use conv=native with this network."
        )
    return None


def _forms(conv: nn.Conv2d) -> frozenset[str]:
    """The kinds that a single convolution is an instance of."""
    forms = set()
    if conv.groups == 1:
        forms.add("standard")
    elif conv.groups == conv.in_channels:
        forms.add("separable")
    if min(conv.kernel_size) == 1:
        forms.add("spatial")
    return frozenset(forms)


def _block_site(name: str, block: nn.Module) -> Site | None:
    """The site of a whole block, where the block is one."""
    if type(block) not in (InvertedResidual, DepthwiseSeparableConv):
        return None
    depthwise = block.conv_dw
    if type(depthwise) not in (nn.Conv2d, Conv2dSame) or depthwise.groups != depthwise.in_channels:
        return None
    if block.conv_s2d is not None or (first := getattr(block, "conv_pw", None)) is None or not _is_1x1(first):
        return None
    spec = ConvSpec.of(depthwise).but(groups=1)
    if type(block) is InvertedResidual:
        spec, wrap = spec.but(in_channels=first.in_channels), lambda conv: _fused(block, conv, block.bn2, block.bn3)
    elif not block.has_pw_act:
        wrap = lambda conv: _fused(block, conv, block.bn1, block.bn2)  # noqa: E731
    elif isinstance(block.se, nn.Identity):
        spec, wrap = spec.but(out_channels=first.out_channels), lambda conv: _conv_bn_act(block, conv)
    else:
        return None
    return Site(name, block, spec, frozenset({"separable"}), wrap)


def _is_1x1(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1


def _fused(block: nn.Module, conv: nn.Module, bn1: nn.Module, bn2: nn.Module) -> EdgeResidual:
    """Fused-MBConv: the block with ``conv`` for its expansion and depthwise convolutions."""
    fused = EdgeResidual(conv.in_channels, 1, 1, device="meta")
    project = block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw
    fused.conv_exp, fused.bn1, fused.aa, fused.se = conv, bn1, block.aa, block.se
    fused.conv_pwl, fused.bn2, fused.drop_path = project, bn2, block.drop_path
    fused.has_skip = block.has_skip
    return fused


def _conv_bn_act(block: DepthwiseSeparableConv, conv: nn.Module) -> ConvBnAct:
    """The plain block with ``conv`` for a depthwise and a pointwise convolution and what stands between them."""
    plain = ConvBnAct(conv.in_channels, 1, 1, device="meta")
    plain.conv, plain.bn1, plain.aa, plain.drop_path = conv, block.bn2, block.aa, block.drop_path
    plain.has_skip = block.has_skip
    return plain
