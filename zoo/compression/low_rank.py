"""Closed forms: the two factors of a trained kernel that come closest to it.

A kernel (C′, C/g, k, k) is read as one or several matrices. What a conv kind realises with rank r is exactly what such
a matrix of rank r holds, so by Eckart & Young (1936) the truncated SVD gives the best factors there are, in the sum of
squared weights, and all singular values together give the kernel itself.

============ ===================================== ==================================
kind         matrices                              their factors
============ ===================================== ==================================
spatial      one a group: (C/g·k) × (k·C′/g)       k×1 to r channels, then 1×k
separable    one an input channel: C′ × k²         r depthwise filters, then 1×1
blueprint    one an output filter: C × k²          1×1 to r channels, then depthwise
============ ===================================== ==================================

Sources: Jaderberg et al. 2014 (spatial), Guo et al. 2018 "Network decoupling" (separable), Haase & Amthor 2020
(blueprint). Singular values are shared out evenly between the two factors; a bias goes to the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from zoo.convs import KINDS, ConvSpec
from zoo.errors import ConvzooError
from zoo.places import take_after

Rank = int | float | None
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Form:
    """How a kind reads a kernel as matrices (B, rows, columns), and their factors as weights.

    Attributes:
        matrices: (kernel (C′, C/g, kh, kw), g) → (B, rows, columns).
        first, last: Names of the kind's two convolutions, in the order of the data.
        weights: (left (B, rows, r), right (B, r, columns), spec) → the weights of ``first`` and ``last``, their axes in
            order.
    """

    matrices: Callable[[torch.Tensor, int], torch.Tensor]
    first: str
    last: str
    weights: Callable[[torch.Tensor, torch.Tensor, ConvSpec], Pair]


def _spatial_matrices(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    kernel = kernel.unflatten(0, (groups, -1))  # g, C′/g, C/g, kh, kw
    return kernel.permute(0, 2, 3, 4, 1).flatten(3).flatten(1, 2)


def _spatial_weights(left: torch.Tensor, right: torch.Tensor, spec: ConvSpec) -> Pair:
    height, width = spec.kernel_size
    vertical = left.unflatten(1, (-1, height)).permute(0, 3, 1, 2)  # g, r, C/g, kh
    horizontal = right.unflatten(2, (width, -1)).permute(0, 3, 1, 2)  # g, C′/g, r, kw
    return vertical, horizontal


FORMS = {
    "spatial": _Form(_spatial_matrices, "vertical", "horizontal", _spatial_weights),
    "separable": _Form(
        lambda kernel, groups: _dense(kernel, groups).flatten(2).transpose(0, 1),
        "depthwise",
        "pointwise",
        lambda left, right, spec: (right, left.transpose(0, 1)),
    ),
    "blueprint": _Form(
        lambda kernel, groups: _dense(kernel, groups).flatten(2),
        "pointwise",
        "depthwise",
        lambda left, right, spec: (left.transpose(1, 2), right),
    ),
}
"""The conv kinds that a trained kernel can be turned into without data."""


def _dense(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    """A grouped kernel (C′, C/g, kh, kw) with the zeros that it leaves out: (C′, C, kh, kw)."""
    out, inside = len(kernel) // groups, kernel.shape[1]
    dense = kernel.new_zeros(len(kernel), inside * groups, *kernel.shape[2:])
    for g in range(groups):
        dense[g * out : (g + 1) * out, g * inside : (g + 1) * inside] = kernel[g * out : (g + 1) * out]
    return dense


@dataclass(frozen=True)
class Factors:
    """A convolution, factorised.

    Attributes:
        module: The conv kind's module with its weights.
        rank: Singular values kept of each matrix.
        full_rank: As many as there are: with all of them the module computes what the convolution did.
        energy: Sum of the squared singular values that were kept over that of all: 1 − (relative error)².
    """

    module: nn.Module
    rank: int
    full_rank: int
    energy: float


def factorise(conv: nn.Conv2d, kind: str, rank: Rank = None) -> Factors:
    """Turns a trained convolution into the module of a conv kind that comes closest to it.

    Args:
        conv: Any stride, padding, dilation and groups; timm's ``Conv2dSame`` too. It is left as it is.
        kind: A key of `FORMS`.
        rank: A whole number: singular values to keep of each matrix (at most all). A float in (0, 1]: as many as keep
            that share of the layer's energy, the same number for each of its matrices. None: that of the zoo's own
            cells, C and C′ the channels: min(C, C′)/g for ``spatial``, 1 otherwise.

    Raises:
        ConvzooError: A rank that makes no sense, or weights that are not there or not finite.
    """
    check_rank(rank)
    spec, form = ConvSpec.of(conv), FORMS[kind]
    if conv.weight.is_meta or not conv.weight.isfinite().all():
        raise ConvzooError("a kernel on the meta device, or one with NaN or infinite weights, cannot be factorised.")
    # In float64, so that at full rank nothing but the weights' own rounding is lost.
    kernel = conv.weight.detach().to(torch.float64)
    left, values, right = torch.linalg.svd(form.matrices(kernel, spec.groups), full_matrices=False)
    kept = _kept(values, default_rank(spec, kind) if rank is None else rank)
    root = values[:, :kept].sqrt()
    first, last = form.weights(left[:, :, :kept] * root[:, None], root[:, :, None] * right[:, :kept], spec)
    module = KINDS[kind](spec, rank=kept)
    with torch.no_grad():
        for name, weight in ((form.first, first), (form.last, last)):
            target = module.get_submodule(name).weight
            target.copy_(weight.reshape(target.shape))
        if conv.bias is not None:
            module.get_submodule(form.last).bias.copy_(conv.bias)
    take_after(module.train(conv.training), [conv])
    squares = values.square()
    total = squares.sum().item()
    energy = min(1.0, squares[:, :kept].sum().item() / total) if total else 1.0
    return Factors(module, kept, values.shape[1], energy)


def default_rank(spec: ConvSpec, kind: str) -> int:
    """The rank that the zoo's own cells have."""
    return min(spec.in_channels, spec.out_channels) // spec.groups if kind == "spatial" else 1


def check_rank(rank: object) -> None:
    """Raises ConvzooError unless ``rank`` is None, a whole number from 1, or a share of the energy in (0, 1]."""
    whole = type(rank) is int and rank >= 1
    share = isinstance(rank, float) and 0 < rank <= 1
    if not (rank is None or whole or share):
        raise ConvzooError(
            f"rank={rank} is not allowed. Allowed: a whole number from 1 (singular values to keep), a share of the "
            "energy to keep above 0 and up to 1.0 (rank=0.9), or none (the rank of the zoo's own cells)."
        )


def _kept(values: torch.Tensor, rank: int | float) -> int:
    """How many of the singular values (B, n) a rank stands for."""
    n = values.shape[1]
    if isinstance(rank, int):
        return min(rank, n)
    squares = values.square().sum(0)
    lost = squares.flip(0).cumsum(0).flip(0)  # lost[r]: what is lost where r are kept
    # Singular values below n·ε are rounding: share=1.0 does not keep those.
    noise = (n * torch.finfo(values.dtype).eps) ** 2
    allowed = (1 - rank + noise) * squares.sum().item()
    enough = (lost <= allowed).nonzero()
    return max(1, enough[0].item() if len(enough) else n)
