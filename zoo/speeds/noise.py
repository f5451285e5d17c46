"""Defines when a measured figure is too noisy to trust. Needs no torch, so that the report can use it."""

NOISY = 0.1
"""The interquartile range, as a share of the median, above which a figure is noisy."""

MARK = "~"
"""Follows a noisy figure in tables."""

LEGEND = f"{MARK} noisy: the middle half of the samples spreads over more than {NOISY:.0%} of the median."


def is_noisy(median: float, iqr: float) -> bool:
    """Returns whether the interquartile range exceeds `NOISY` times the median."""
    return iqr > NOISY * abs(median)
