"""Pareto front: the cells that no other cell beats in both accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.report.cells import Cell, Group
from zoo.report.metrics import ACCURACY, Metric


def front(points: Sequence[tuple[float, float]], lower_cost: bool = True) -> list[int]:
    """Returns the indices of the points that no other point dominates, the cheapest first.

    A point dominates another if it is at least as good in both and better in one. Equal points are all on the front.

    Args:
        points: (cost, accuracy); higher accuracy is better.
        lower_cost: Whether lower cost is better; False for speeds.
    """
    sign = 1 if lower_cost else -1
    order = sorted(range(len(points)), key=lambda i: (sign * points[i][0], -points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or points[i][1] > points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept


def front_cells(group: Group, metric: Metric) -> list[Cell]:
    """Returns a group's front of mean accuracy against the mean of a metric.

    For a measured metric, only cells measured under the group's most frequent conditions take part.
    """
    cells = [c for c in group.cells if not c.same_as and c.completed and None not in (c.mean(metric), c.mean(ACCURACY))]
    if metric.measured:
        cells = [c for c in cells if c.conditions == group.conditions[0]]
    points = [(cell.mean(metric), cell.mean(ACCURACY)) for cell in cells]
    return [cells[i] for i in front(points, lower_cost=not metric.higher)]
