"""Means over seeds, their standard deviation, and t intervals.

Throughout: mean = Σx/n; sd = √(Σ(x − mean)²/(n − 1)); the 95 % interval of a mean is
mean ± t(0.975, n − 1) · sd/√n, with Student's t. One value has neither a standard deviation nor an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

LEVEL = 0.95
"""Confidence level of every interval. It holds for a single comparison; there is no multiple-comparison correction."""
ROUNDING = 1e-12
"""Relative tolerance of equality: floats that are mathematically equal differ by about 1e-16."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n independent values.

    Attributes:
        mean: Mean of the values.
        sd: Standard deviation, with n − 1 in the denominator; None for one value.
        n: Number of values.
    """

    mean: float
    sd: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half-width of the mean's t interval; None for one value."""
        return None if self.sd is None else t_quantile(self.n - 1) * self.sd / math.sqrt(self.n)


def estimate(values: Sequence[float]) -> Estimate:
    """Computes mean, standard deviation and number of at least one value."""
    n = len(values)
    if n == 1:
        return Estimate(values[0], None, 1)
    if max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        # Equal values, such as exact counts over seeds, keep all their digits.
        return Estimate(values[0], 0.0, n)
    mean = math.fsum(values) / n
    return Estimate(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)), n)


@dataclass(frozen=True)
class Difference:
    """Difference between two cells, over the seeds that both have.

    Attributes:
        estimate: Estimate of the per-seed differences; None if the cells share no seed.
        verdict: ``higher`` or ``lower`` (0 is outside the interval), ``within noise`` (0 is inside), ``one seed`` or
            ``no common seed`` (noise is unknown), ``no spread`` (every seed gave the same difference other than 0: an
            interval of zero width claims more than a few rounded accuracies can show).
    """

    estimate: Estimate | None
    verdict: str


def paired(values: Mapping[Any, float], others: Mapping[Any, float]) -> Difference:
    """Compares two cells seed by seed.

    Args:
        values: Values of one cell, by seed.
        others: Values of the other cell, by seed.
    """
    differences = [values[seed] - others[seed] for seed in values if seed in others]
    if not differences:
        return Difference(None, "no common seed")
    found = estimate(differences)
    if found.sd is None or found.half_width is None:
        return Difference(found, "one seed")
    if found.sd == 0:
        return Difference(found, "no spread" if abs(found.mean) > ROUNDING else "within noise")
    if abs(found.mean) <= found.half_width:
        return Difference(found, "within noise")
    return Difference(found, "higher" if found.mean > 0 else "lower")


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Returns the t with P(|T| ≤ t) = level, for Student's T with an integer number of degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Computes P(|T| ≤ t) by the finite series of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
