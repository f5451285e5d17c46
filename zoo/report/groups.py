"""Groups runs: all seeds of the same choices form a cell, all cells of one recipe a group."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report.cells import BASE_RECIPE, Cell, Group, natural, sort_cells
from zoo.report.files import Value
from zoo.report.metrics import ACCURACY
from zoo.report.runs import Run

FOUND_LATER = ("image_size", "stem", "width", "phi", "match_miss", "hardware")
"""Choices whose final value may be known only after a run has started."""


def compare(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by recipe and cell. The group with the most runs comes first."""
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
            # A job that has not started does not know its full recipe: use that of the runs with the same choices.
            recipe = recipes[next(iter(full[_key(recipe)]))]
        recipes[_key(recipe)] = recipe
        by_recipe[_key(recipe)].append(run)
    groups = [Group(recipes[key], sort_cells(_cells(found), ACCURACY)) for key, found in by_recipe.items()]
    groups.sort(key=lambda group: -sum(len(cell.runs) for cell in group.cells))
    _name(groups)
    return groups


def _cells(runs: Sequence[Run]) -> list[Cell]:
    """Groups runs whose choices are equal except for the seed."""
    cells: dict[str, Cell] = {}
    early: dict[str, list[Cell]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.status != "completed"):
        choices = {key: value for key, value in run.cell.items() if key != "seed"}
        # An unreadable run has no choices, so it gets a cell of its own.
        key = _key(choices) if choices else f"{run.folder} {run.number}"
        unresolved = _key({k: v for k, v in choices.items() if k not in FOUND_LATER})
        cell = cells.get(key)
        if cell is None and choices and run.status != "completed":
            # Probably another seed of a completed cell, whose `FOUND_LATER` choices are not final yet.
            cell = early[unresolved][0] if len(early[unresolved]) == 1 else None
        if cell is None:
            cell = cells[key] = Cell(choices)
            if run.status == "completed":
                early[unresolved].append(cell)
        cell.runs.append(run)
    for cell in cells.values():
        cell.runs.sort(key=lambda run: (run.same_as is not None, natural(run.seed)))
    return list(cells.values())


def _base(cell: Mapping[str, Value]) -> dict[str, Value]:
    return {key: cell[key] for key in BASE_RECIPE if key in cell}


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _name(groups: list[Group]) -> None:
    """Sets the titles: the keys in which recipes differ, or the usual keys of a recipe."""
    keys = list(dict.fromkeys(key for group in groups for key in group.recipe))
    differing = [key for key in keys if len({str(group.recipe.get(key)) for group in groups}) > 1]
    usual = [*BASE_RECIPE, "data.name", "trainer.max_epochs", "data.batch_size", "optim.name", "optim.lr"]
    for group in groups:
        shown = [key for key in (differing or usual) if key in group.recipe]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        group.title = " ".join(f"{key}={group.recipe[key]}" for key in shown[:8]) + more or "no recipe known"
