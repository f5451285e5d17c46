"""Puts runs together: repeats over seeds make a cell, cells of one recipe a group. Only cells of one group compare."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zoo.report.intervals import Difference, Estimate, estimate, paired
from zoo.report.metrics import ACCURACY, CONDITIONS, Metric
from zoo.report.results import STATUSES, Run, Value

SCALING = ("scale", "phi", "depth", "width", "resolution", "match", "image_size")
CHOICES = ("model", "variant", *SCALING, "conv", "act", "hardware")
BASE_RECIPE = ("data", "epochs", "batch_size", "optim", "lr", "weight_decay")
"""Keys of ``cell`` that stand for the recipe of a result that has none."""
FOUND_LATER = ("image_size", "stem", "width", "match_miss", "hardware")
"""Choices that a run may know in its final form only after it has started."""


@dataclass
class Cell:
    """One combination of choices, with all its seeds.

    Attributes:
        choices: Without the seed.
        runs: In the order of their seeds.
    """

    choices: dict[str, Value]
    runs: list[Run] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``completed`` where one seed is; else what comes first in `STATUSES` of what the runs are."""
        return min((run.status for run in self.runs), key=list(STATUSES).index)

    @property
    def same_as(self) -> str | None:
        """Folder of the run shown here, where none was trained for this cell itself."""
        return self.runs[0].same_as if all(run.same_as for run in self.runs) else None

    @cached_property
    def conditions(self) -> tuple[str, ...] | None:
        """What measured figures hold for, one text a condition in `CONDITIONS`; None where the seeds differ in it."""
        found = {conditions_of(run) for run in self.completed}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.status == "completed"]

    def values(self, key: str) -> dict[Value | None, float]:
        """A metric by seed, over the completed runs. Runs that repeat a seed are averaged: they are not independent."""
        repeats = defaultdict(list)
        for run in self.completed:
            if key in run.metrics:
                repeats[run.seed].append(run.metrics[key])
        return {seed: estimate(values).mean for seed, values in repeats.items()}

    def estimate(self, metric: Metric, key: str | None = None) -> Estimate | None:
        """Mean, spread and number of seeds of a metric.

        Exact counts of a cell that did not complete are taken from its plan. A measured figure of seeds that ran under
        different conditions is None: no mean of them means anything.
        """
        key = key or metric.key
        values = list(self.values(key).values())
        if not values and key.startswith("cost/"):
            values = [run.metrics[key] for run in self.runs if key in run.metrics][:1]
        return None if metric.measured and self.conditions is None else estimate(values)

    def mean(self, metric: Metric) -> float | None:
        found = self.estimate(metric)
        return found and found.mean

    def note(self) -> str:
        """What became of the runs that did not complete: ``1 failed, 2 running``; empty where all completed."""
        counts = Counter(run.status for run in self.runs)
        return ", ".join(f"{counts[status]} {status}" for status in list(STATUSES)[1:] if counts[status])


@dataclass
class Group:
    """Cells of one recipe.

    Attributes:
        recipe: What they have in common.
        cells: Best accuracy first, what did not complete last.
        title: What tells the recipe from the other groups'.
    """

    recipe: dict[str, Value]
    cells: list[Cell]
    title: str = ""

    @cached_property
    def best(self) -> Cell | None:
        """The cell that the others are compared with: the highest mean accuracy of those with several seeds."""
        several = [c for c in self.cells if (e := c.estimate(ACCURACY)) and e.n > 1 and not c.same_as]
        return max(several, key=lambda c: c.mean(ACCURACY), default=None)

    def against_best(self, cell: Cell) -> Difference | None:
        """The cell's accuracy less the best one's, seed by seed; None for the best and for what has no accuracy."""
        if self.best is None or cell is self.best or cell.mean(ACCURACY) is None:
            return None
        return paired(cell.values(ACCURACY.key), self.best.values(ACCURACY.key))

    def rank(self, cell: Cell) -> int | None:
        """1 + the number of cells with a higher mean accuracy, each network counted once; None without an accuracy."""
        mean = cell.mean(ACCURACY)
        return None if mean is None else 1 + len(self._means) - bisect_right(self._means, mean)

    @cached_property
    def _means(self) -> list[float]:
        return sorted(m for c in self.cells if not c.same_as and (m := c.mean(ACCURACY)) is not None)

    @cached_property
    def conditions(self) -> list[tuple[str, ...]]:
        """Every set of conditions under which runs were measured, the most frequent first."""
        counts = Counter(conditions_of(run) for cell in self.cells for run in cell.completed)
        return [conditions for conditions, _ in counts.most_common()]


def conditions_of(run: Run) -> tuple[str, ...]:
    """What a run's measured figures hold for."""
    return tuple(str(run.environment.get(key, "–")) for key in CONDITIONS)


def compare(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by recipe and cell; the group with the most runs first."""
    recipes: dict[str, dict[str, Value]] = {}
    full = defaultdict(set)
    for run in runs:
        if run.recipe:
            full[_key(_base(run.cell))].add(_key(run.recipe))
            recipes[_key(run.recipe)] = run.recipe
    by_recipe: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        recipe = run.recipe or _base(run.cell)
        if not run.recipe and run.status != "completed" and len(full[_key(recipe)]) == 1:
            # A job that has not started does not say all of its recipe; one that ran with the same choices does.
            recipe = recipes[next(iter(full[_key(recipe)]))]
        recipes[_key(recipe)] = recipe
        by_recipe[_key(recipe)].append(run)
    groups = [Group(recipes[key], sort_cells(_cells(found), ACCURACY)) for key, found in by_recipe.items()]
    groups.sort(key=lambda group: -sum(len(cell.runs) for cell in group.cells))
    _name(groups)
    return groups


def _cells(runs: Sequence[Run]) -> list[Cell]:
    """Runs with equal choices but for the seed, together."""
    cells: dict[str, Cell] = {}
    early: dict[str, list[Cell]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.status != "completed"):
        choices = {key: value for key, value in run.cell.items() if key != "seed"}
        # What cannot be read belongs to no cell that is known.
        key = _key(choices) if choices else f"{run.folder} {run.number}"
        unresolved = _key({k: v for k, v in choices.items() if k not in FOUND_LATER})
        cell = cells.get(key)
        if cell is None and choices and run.status != "completed":
            # Another seed of a completed cell, though it has not found out all of its choices.
            cell = early[unresolved][0] if len(early[unresolved]) == 1 else None
        if cell is None:
            cell = cells[key] = Cell(choices)
            if run.status == "completed":
                early[unresolved].append(cell)
        cell.runs.append(run)
    for cell in cells.values():
        cell.runs.sort(key=lambda run: (run.same_as is not None, _natural(run.seed)))
    return list(cells.values())


def sort_cells(cells: Any, metric: Metric) -> list[Cell]:
    """The best first in a metric; what has no value last, by status and then by its choices."""

    def order(cell: Cell) -> tuple[Any, ...]:
        mean = cell.mean(metric) if cell.completed else None
        value = 0 if mean is None else -mean if metric.higher else mean
        names = tuple(_natural(cell.choices.get(key)) for key in CHOICES)
        return mean is None, value, list(STATUSES).index(cell.status), names

    return sorted(cells, key=order)


def _natural(value: Value | None) -> tuple[bool, float, str]:
    """Numbers in their order and before texts."""
    number = isinstance(value, (int, float))
    return not number, value if number else 0, "" if value is None else str(value)


def _base(cell: Mapping[str, Value]) -> dict[str, Value]:
    return {key: cell[key] for key in BASE_RECIPE if key in cell}


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _name(groups: list[Group]) -> None:
    """Titles: what differs between the recipes, or what every recipe should say."""
    keys = list(dict.fromkeys(key for group in groups for key in group.recipe))
    differing = [key for key in keys if len({str(group.recipe.get(key)) for group in groups}) > 1]
    usual = [*BASE_RECIPE, "data.name", "trainer.max_epochs", "data.batch_size", "optim.name", "optim.lr"]
    for group in groups:
        shown = [key for key in (differing or usual) if key in group.recipe]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        group.title = " ".join(f"{key}={group.recipe[key]}" for key in shown[:8]) + more or "no recipe known"


def varying(cells: Sequence[Cell]) -> list[str]:
    """The choices that tell these cells apart; model, conv and act always.

    Left out are the recipe's, and those that follow from the ones before (as the stem follows from the image size).
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
    """Whether a choice follows from some others in these cells."""
    values: dict[tuple[str, ...], str] = {}
    for cell in cells:
        known = tuple(str(cell.choices.get(b)) for b in by)
        if values.setdefault(known, str(cell.choices.get(key))) != str(cell.choices.get(key)):
            return False
    return True
