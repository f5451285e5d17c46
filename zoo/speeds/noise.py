"""When a measured figure is too restless to be trusted. Needs no torch: the report asks the same question."""

NOISY = 0.1
"""The interquartile range, as a share of the median, above which a figure is noisy."""

MARK = "~"
"""Stands behind a noisy figure in tables."""

LEGEND = f"{MARK} noisy: the middle half of the samples spreads over more than {NOISY:.0%} of the median."


def is_noisy(median: float, iqr: float) -> bool:
    """Whether the interquartile range is above `NOISY` of the median."""
    return iqr > NOISY * abs(median)
