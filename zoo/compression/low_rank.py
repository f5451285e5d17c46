"""Factorises trained kernels in closed form: the two factors closest to each kernel.

A kernel (C′, C/g, k, k) is read as one or several matrices. A conv kind of rank r realises exactly the kernels whose
matrices have rank r or less. So by Eckart & Young (1936) the truncated SVD gives the best possible factors, in the sum
of squared errors of the weights, and all singular values together reproduce the kernel.

============ ===================================== ==================================
kind         matrices                              their factors
============ ===================================== ==================================
spatial      one per group: (C/g·k) × (k·C′/g)     k×1 to r channels, then 1×k
separable    one per input channel: C′ × k²        r depthwise filters, then 1×1
blueprint    one per output filter: C × k²         1×1 to r channels, then depthwise
============ ===================================== ==================================

Sources: Jaderberg et al. 2014 (spatial), Guo et al. 2018 "Network decoupling" (separable), Haase & Amthor 2020
(blueprint). Each factor gets the square root of the singular values; a bias goes to the last factor.
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
    """How a kind reads a kernel as matrices (B, rows, columns), and turns their factors into weights.

    Attributes:
        matrices: (kernel (C′, C/g, kh, kw), g) → (B, rows, columns).
        first, last: Names of the kind's two convolutions, in the order of the data.
        weights: (left (B, rows, r), right (B, r, columns), spec) → the weights of ``first`` and ``last``, up to a
            reshape.
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
"""The conv kinds to which a trained kernel can be converted without data."""


def _dense(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    """Expands a grouped kernel (C′, C/g, kh, kw) with its implicit zeros to a dense one (C′, C, kh, kw)."""
    out, inside = len(kernel) // groups, kernel.shape[1]
    dense = kernel.new_zeros(len(kernel), inside * groups, *kernel.shape[2:])
    for g in range(groups):
        dense[g * out : (g + 1) * out, g * inside : (g + 1) * inside] = kernel[g * out : (g + 1) * out]
    return dense


@dataclass(frozen=True)
class Factors:
    """A factorised convolution.

    Attributes:
        module: The conv kind's module with its weights.
        rank: Number of singular values kept of each matrix.
        full_rank: Number of all singular values; with all of them the module computes the same as the convolution.
        energy: Sum of the kept squared singular values over the sum of all: 1 − (relative error)².
    """

    module: nn.Module
    rank: int
    full_rank: int
    energy: float


def factorise(conv: nn.Conv2d, kind: str, rank: Rank = None) -> Factors:
    """Factorises a trained convolution into the closest module of a conv kind.

    Args:
        conv: Any stride, padding, dilation and groups; timm's ``Conv2dSame`` too. It is not changed.
        kind: A key of `FORMS`.
        rank: An int: singular values to keep of each matrix (at most all). A float in (0, 1]: as many as retain that
            share of the layer's energy, the same number for each of its matrices. None: the rank of the zoo's own
            cells, which is min(C, C′)/g for ``spatial`` (C and C′ are the channels) and 1 otherwise.

    Raises:
        ConvzooError: The rank is invalid, or the weights are on the meta device or not finite.
    """
    check_rank(rank)
    spec, form = ConvSpec.of(conv), FORMS[kind]
    if conv.weight.is_meta or not conv.weight.isfinite().all():
        raise ConvzooError("a kernel on the meta device, or one with NaN or infinite weights, cannot be factorised.")
    # float64, so that at full rank only the rounding of the weights themselves is lost.
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
    """Returns the rank that the zoo's own cells have."""
    return min(spec.in_channels, spec.out_channels) // spec.groups if kind == "spatial" else 1


def check_rank(rank: object) -> None:
    """Raises ConvzooError unless ``rank`` is None, an int from 1, or a share of the energy as a float in (0, 1]."""
    whole = type(rank) is int and rank >= 1
    share = isinstance(rank, float) and 0 < rank <= 1
    if not (rank is None or whole or share):
        raise ConvzooError(
            f"rank={rank} is not allowed. Allowed: a whole number from 1 (singular values to keep), a share of the "
            "energy to keep above 0 and up to 1.0 (rank=0.9), or none (the rank of the zoo's own cells)."
        )


def _kept(values: torch.Tensor, rank: int | float) -> int:
    """Returns how many of the singular values (B, n) a rank keeps."""
    n = values.shape[1]
    if isinstance(rank, int):
        return min(rank, n)
    squares = values.square().sum(0)
    lost = squares.flip(0).cumsum(0).flip(0)  # lost[r]: the energy lost if r are kept
    # Singular values below n·ε are rounding noise, which rank=1.0 does not keep.
    noise = (n * torch.finfo(values.dtype).eps) ** 2
    allowed = (1 - rank + noise) * squares.sum().item()
    enough = (lost <= allowed).nonzero()
    return max(1, enough[0].item() if len(enough) else n)
