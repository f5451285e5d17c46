"""Searches for the integer whose count is nearest to a budget, with as few counts as possible."""

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
    """Finds the candidate whose count is nearest to a budget, for counts that never fall.

    Jumps to where a scaling law predicts the budget, by at least 4, 8, 16 … steps, and bisects if the jump leaves the
    bracket, until the bracket is two neighbours.

    Args:
        count: candidate → its count. Called at most once per candidate.
        budget: The count to find.
        candidates: Consecutive integers.
        start: Where to begin. Of equally near candidates, the one nearest to ``start`` wins.
        distance: (candidate, ratio) → steps to where the law predicts ``ratio`` times the candidate's count.
        others: (end of the search) → additional candidates to count, if counts are not quite monotonic.

    Returns:
        The candidate; the first or the last one if the budget lies beyond all of them.
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
