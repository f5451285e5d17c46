"""Low-rank factors of trained kernels, in closed form; by them a kind of convolution starts from a dense one.

A kernel (C′, C/g, k, k) is read as one or several matrices. A conv kind of rank r realises exactly the kernels whose
matrices have rank r or less. So by Eckart & Young (1936) the truncated SVD gives the best possible factors, in the sum
of squared errors of the weights, and all singular values together reproduce the kernel. A kind says in its
``from_dense`` what its matrices are, and which of its layers gets which factor:

============ ===================================== ==================================
kind         matrices                              their factors
============ ===================================== ==================================
spatial      one per group: (C/g·k) × (k·C′/g)     k×1 to r channels, then 1×k
separable    one per input channel: C′ × k²        r depthwise filters, then 1×1
blueprint    one per output filter: C × k²         1×1 to r channels, then depthwise
============ ===================================== ==================================

Sources: Jaderberg et al. 2014 (spatial), Guo et al. 2018 "Network decoupling" (separable), Haase & Amthor 2020
(blueprint). Each factor gets the square root of the singular values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zoo.errors import ConvzooError

Rank = int | float | None


@dataclass(frozen=True)
class FromDense:
    """What a kind makes of a dense kernel: the result of its ``from_dense``.

    Attributes:
        weights: Name of a convolution in the kind's module → its weight, up to a reshape. A bias goes to the only one
            that has a bias.
        rank: Number of singular values kept of each matrix, the module's option ``rank``; None for a kind without it.
        full_rank: Number of all of them; with all of them the module computes the same as the convolution.
        energy: Share of the squared weights that is kept, 1 − (relative error)².
    """

    weights: Mapping[str, torch.Tensor]
    rank: int | None = None
    full_rank: int | None = None
    energy: float = 1.0


@dataclass(frozen=True)
class LowRank:
    """The closest factors of some matrices: ``left @ right``.

    Attributes:
        left: (matrices, rows, rank).
        right: (matrices, rank, columns).
        rank, full_rank, energy: As in `FromDense`.
    """

    left: torch.Tensor
    right: torch.Tensor
    rank: int
    full_rank: int
    energy: float

    def into(self, **weights: torch.Tensor) -> FromDense:
        """Returns the result of a ``from_dense``: these weights, made of the factors, by the name of their layer."""
        return FromDense(weights, self.rank, self.full_rank, self.energy)


def low_rank(matrices: torch.Tensor, rank: int | float) -> LowRank:
    """Factorises matrices by the truncated SVD.

    Args:
        matrices: (number of matrices, rows, columns).
        rank: An int: singular values to keep of each (at most all). A float in (0, 1]: as many as retain that share of
            the squares, the same number for each.
    """
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    kept = _kept(values, rank)
    root = values[:, :kept].sqrt()
    squares = values.square()
    total = squares.sum().item()
    energy = min(1.0, squares[:, :kept].sum().item() / total) if total else 1.0
    return LowRank(left[:, :, :kept] * root[:, None], root[:, :, None] * right[:, :kept], kept, values.shape[1], energy)


def dense_kernel(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    """Expands a grouped kernel (C′, C/g, kh, kw) with its implicit zeros to a dense one (C′, C, kh, kw)."""
    out, inside = len(kernel) // groups, kernel.shape[1]
    dense = kernel.new_zeros(len(kernel), inside * groups, *kernel.shape[2:])
    for g in range(groups):
        dense[g * out : (g + 1) * out, g * inside : (g + 1) * inside] = kernel[g * out : (g + 1) * out]
    return dense


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
