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
    cells = [cell for cell in group.cells if not cell.same_as and cell.completed]
    if metric.measured:
        cells = [cell for cell in cells if cell.conditions == group.conditions[0]]
    means = [(cell, cell.mean(metric), cell.mean(ACCURACY)) for cell in cells]
    points = [(cell, cost, accuracy) for cell, cost, accuracy in means if cost is not None and accuracy is not None]
    return [points[i][0] for i in front([point[1:] for point in points], lower_cost=not metric.higher)]
