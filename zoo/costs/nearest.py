"""The whole number at which a count comes nearest to a budget, in as few counts as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def nearest(
    count: Callable[[int], int],
    budget: float,
    candidates: range,
    start: int,
    distance: Callable[[int, float], float],
    others: Callable[[int], Iterable[int]] = lambda at: (),
) -> int:
    """Finds the candidate whose count is nearest to a budget, where no count is below that of a smaller candidate.

    It goes where a law expects the budget, at least 4, 8, 16 … steps at a time, and halves once it has been on both
    sides; it ends with two neighbours.

    Args:
        count: Counts at a candidate. Called once for each.
        budget: What is looked for.
        candidates: Whole numbers without gaps.
        start: The first one to count at; of several equally near ones the nearest to ``start`` is taken.
        distance: (candidate, ratio) → steps from it to where the law expects ``ratio`` times its count.
        others: (where the search ended) → candidates to count at too, where counts fall now and then all the same.

    Returns:
        The candidate: the first or the last one where the budget lies beyond all of them.
    """
    counts: dict[int, int] = {}
    below, above = candidates[0] - 1, candidates[-1] + 1
    at, stride = start, 4
    while above - below > 1:
        counts[at] = count(at)
        missing = counts[at] < budget
        below, above = (at, above) if missing else (below, at)
        step = max(stride, round(abs(distance(at, budget / counts[at]))))
        at = min(candidates[-1], max(candidates[0], at + step if missing else at - step))
        stride *= 2
        if not below < at < above:
            at = (below + above) // 2
    if below not in candidates and counts[above] > budget:
        return candidates[0]
    if above not in candidates and counts[below] < budget:
        return candidates[-1]
    counts |= {at: count(at) for at in others(min(above, candidates[-1])) if at not in counts}
    return min(counts, key=lambda at: (abs(counts[at] - budget), abs(at - start)))
