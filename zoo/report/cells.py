"""Cells (one combination of choices with all its seeds) and groups (comparable cells of one recipe)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

from zoo.report.files import Value
from zoo.report.intervals import Difference, Estimate, estimate, paired
from zoo.report.metrics import ACCURACY, CONDITIONS, Metric
from zoo.report.runs import STATUSES, Run
from zoo.speeds.noise import is_noisy

SCALING = ("scale", "phi", "depth", "width", "resolution", "match", "match_over", "image_size")
CHOICES = ("model", "variant", *SCALING, "conv", "act", "hardware", "plan")
BASE_RECIPE = ("data", "epochs", "batch_size", "optim", "lr", "weight_decay")
"""Keys of ``cell`` that serve as the recipe of a result without one."""


@dataclass
class Cell:
    """One combination of choices, with all its seeds.

    Attributes:
        choices: The choices, without the seed.
        runs: Its runs, sorted by seed.
    """

    choices: dict[str, Value]
    runs: list[Run] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``completed`` if at least one seed is; otherwise the run status that comes first in `STATUSES`."""
        return min((run.status for run in self.runs), key=list(STATUSES).index)

    @property
    def same_as(self) -> str | None:
        """Folder of the run whose figures are shown, if no run was trained for this cell itself; otherwise None."""
        return self.runs[0].same_as if all(run.same_as for run in self.runs) else None

    @cached_property
    def conditions(self) -> tuple[str, ...] | None:
        """Conditions of the measurements, one text for each of `CONDITIONS`; None if they differ between seeds."""
        found = {conditions_of(run) for run in self.completed}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.status == "completed"]

    @cached_property
    def _by_seed(self) -> dict[str, dict[Value | None, float]]:
        repeats: dict[str, dict[Value | None, list[float]]] = defaultdict(lambda: defaultdict(list))
        for run in self.completed:
            for key, value in run.metrics.items():
                repeats[key][run.seed].append(value)
        return {key: {seed: estimate(values).mean for seed, values in seeds.items()} for key, seeds in repeats.items()}

    def values(self, key: str) -> dict[Value | None, float]:
        """Returns a metric by seed, for the completed runs. Runs with the same seed are averaged: not independent."""
        return self._by_seed.get(key, {})

    def estimate(self, metric: Metric, key: str | None = None) -> Estimate | None:
        """Returns mean, spread and number of seeds of a metric.

        Exact counts (``cost/…``) of a cell that did not complete are taken from its plan. A measured metric is None if
        the seeds ran under different conditions, since their mean would be meaningless.

        Args:
            metric: The metric.
            key: A related key, such as its interquartile range; ``metric.key`` by default.
        """
        key = key or metric.key
        values = list(self.values(key).values())
        if not values and key.startswith("cost/"):
            values = [run.metrics[key] for run in self.runs if key in run.metrics][:1]
        comparable = not metric.measured or self.conditions is not None
        return estimate(values) if values and comparable else None

    def mean(self, metric: Metric) -> float | None:
        return found.mean if (found := self.estimate(metric)) else None

    def note(self) -> str:
        """Returns the status of the runs that did not complete: ``1 failed, 2 running``; empty if all completed."""
        counts = Counter(run.status for run in self.runs)
        return ", ".join(f"{counts[status]} {status}" for status in list(STATUSES)[1:] if counts[status])


@dataclass
class Group:
    """Cells of one recipe.

    Attributes:
        recipe: The settings that all cells share.
        cells: Best accuracy first, cells that did not complete last.
        title: How the recipe differs from those of other groups.
    """

    recipe: dict[str, Value]
    cells: list[Cell]
    title: str = ""

    @cached_property
    def best(self) -> Cell | None:
        """The reference for comparisons: the cell with the highest mean accuracy among those with several seeds."""
        several = [(e.mean, c) for c in self.cells if not c.same_as and (e := c.estimate(ACCURACY)) and e.n > 1]
        return max(several, key=itemgetter(0), default=(0, None))[1]

    def against_best(self, cell: Cell) -> Difference | None:
        """Compares a cell's accuracy with the best cell's, paired by seed; None for the best or without an accuracy."""
        if self.best is None or cell is self.best or cell.mean(ACCURACY) is None:
            return None
        return paired(cell.values(ACCURACY.key), self.best.values(ACCURACY.key))

    def rank(self, cell: Cell) -> int | None:
        """Returns 1 + the number of networks with a higher mean accuracy (each counted once); None without accuracy."""
        mean = cell.mean(ACCURACY)
        return None if mean is None else 1 + len(self._means) - bisect_right(self._means, mean)

    @cached_property
    def _means(self) -> list[float]:
        return sorted(m for c in self.cells if not c.same_as and (m := c.mean(ACCURACY)) is not None)

    @cached_property
    def plugin_versions(self) -> dict[str, Counter[str]]:
        """The plugins of which completed runs used several versions → the hash of each, and how many runs used it."""
        versions: dict[str, Counter[str]] = defaultdict(Counter)
        for cell in self.cells:
            for run in cell.completed:
                for name, code in () if run.same_as else run.plugins.items():
                    versions[name][str(code)] += 1
        return {name: codes for name, codes in versions.items() if len(codes) > 1}

    @cached_property
    def conditions(self) -> list[tuple[str, ...]]:
        """All conditions under which runs were measured, the most frequent first."""
        counts = Counter(conditions_of(run) for cell in self.cells for run in cell.completed)
        return [conditions for conditions, _ in counts.most_common()]


def noisy(cell: Cell, metric: Metric) -> bool:
    """Returns whether a cell's measured figure spreads too much within its runs to be trusted."""
    median, iqr = cell.mean(metric), cell.estimate(metric, f"{metric.key}_iqr")
    return median is not None and iqr is not None and is_noisy(median, iqr.mean)


def conditions_of(run: Run) -> tuple[str, ...]:
    """Returns the conditions under which a run was measured, one text for each of `CONDITIONS`."""
    return tuple(str(run.environment.get(key, "–")) for key in CONDITIONS)


def sort_cells(cells: Any, metric: Metric) -> list[Cell]:
    """Sorts cells by a metric, best first; cells without a value come last, by status. Ties are sorted by choices."""

    def order(cell: Cell) -> tuple[Any, ...]:
        mean = cell.mean(metric) if cell.completed else None
        value = 0 if mean is None else -mean if metric.higher else mean
        names = tuple(natural(cell.choices.get(key)) for key in CHOICES)
        return mean is None, value, list(STATUSES).index(cell.status), names

    return sorted(cells, key=order)


def natural(value: Value | None) -> tuple[bool, float, str]:
    """Sort key: numbers in numeric order, before texts."""
    return (False, value, str(value)) if isinstance(value, (int, float)) else (True, 0, str(value or ""))


def varying(cells: Sequence[Cell]) -> list[str]:
    """Returns the choices in which these cells differ; always model, conv and act.

    Leaves out the recipe's choices, and those that follow from the ones before (as the stem does from the image size).
    """
    done = [cell for cell in cells if cell.completed]

    def differs(key: str) -> bool:
        found = {str(cell.choices[key]) for cell in cells if key in cell.choices}
        return len(found) > 1 or 0 < sum(key in cell.choices for cell in done) < len(done)

    shown = [key for key in CHOICES if key in ("model", "conv", "act") or differs(key)]
    for key in dict.fromkeys(key for cell in done for key in cell.choices):
        if key not in (*CHOICES, *BASE_RECIPE, "match_miss") and not determined(done, shown, key):
            shown.append(key)
    return shown


def determined(cells: Sequence[Cell], by: Sequence[str], key: str) -> bool:
    """Returns whether the choice ``key`` is a function of the choices ``by`` in these cells."""
    found = {(tuple(str(cell.choices.get(b)) for b in by), str(cell.choices.get(key))) for cell in cells}
    return len({known for known, _ in found}) == len(found)
