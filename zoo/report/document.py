"""Builds the report as one JSON document, which ``--json`` writes and the HTML page shows.

All figures are computed from the result files: `zoo.report.intervals` has the formulas of means and intervals,
`zoo.report.effects` those of effects, `zoo.report.pareto` those of fronts. Cells and runs refer to each other by
their index in their lists.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.report import tables
from zoo.report.cells import Cell, Group, noisy, varying
from zoo.report.effects import Effects, find_effects
from zoo.report.groups import compare
from zoo.report.intervals import LEVEL, Estimate
from zoo.report.metrics import ACCURACY, CONDITIONS, METRICS, Metric
from zoo.report.pareto import front_cells
from zoo.report.runs import STATUSES, Run
from zoo.speeds.noise import LEGEND, MARK

FORMAT = 1
MOST_EPOCHS = 100
"""Maximum number of points in a learning curve. Longer curves are subsampled evenly, keeping the last point."""
CURVES = ("val/acc", "val/loss", "train/loss")


def build(results: Sequence[Run], folders: Sequence[str | Path]) -> dict[str, Any]:
    """Builds the document of some runs.

    Args:
        results: From `load_results`.
        folders: The folders they were loaded from, for display.
    """
    groups = compare(results)
    cells = [cell for group in groups for cell in group.cells]
    runs = [run for cell in cells for run in cell.runs]
    cell_ids = {id(cell): number for number, cell in enumerate(cells)}
    run_ids = {id(run): number for number, run in enumerate(runs)}
    return {
        "format": FORMAT,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "folders": [str(folder) for folder in folders],
        "level": LEVEL,
        "counts": tables.status_counts(results),
        "statuses": STATUSES,
        "metrics": [asdict(metric) | {"difference": metric.difference} for metric in METRICS],
        "choices": varying(cells),
        "noise": {"mark": MARK, "legend": LEGEND},
        "groups": [_group(group, cell_ids) for group in groups],
        "cells": [_cell(cell, i, group, cell_ids, run_ids) for i, group in enumerate(groups) for cell in group.cells],
        "runs": [_run(run, cell_ids[id(cell)]) for cell in cells for run in cell.runs],
    }


def _group(group: Group, ids: dict[int, int]) -> dict[str, Any]:
    images = {run.metrics.get("test/images") for cell in group.cells for run in cell.completed}
    fronts = {
        metric.name: [ids[id(c)] for c in front_cells(group, metric)] for metric in METRICS if metric is not ACCURACY
    }
    return {
        "title": group.title,
        "recipe": group.recipe,
        "best": group.best and ids[id(group.best)],
        "test_images": images.pop() if len(images) == 1 else None,
        "conditions": [dict(zip(CONDITIONS, conditions, strict=True)) for conditions in group.conditions],
        "versions": tables.versions_note(group),
        "fronts": fronts,
        "effects": {metric.name: _all_effects(group, metric) for metric in METRICS},
    }


def _all_effects(group: Group, metric: Metric) -> list[dict[str, Any]] | str:
    found = find_effects(group, metric)
    return found if isinstance(found, str) else [_effects(effects, metric) for effects in found]


def _effects(found: Effects, metric: Metric) -> dict[str, Any]:
    def value(x: float | None) -> float | None:
        return x if x is None or metric.difference else math.exp(x)

    def interval(e: Estimate) -> tuple[float | None, float | None]:
        # The same difference in every seed: an interval of zero width would claim more than a small test set can show.
        if e.half_width is None or (metric.difference and e.sd == 0 and e.mean != 0):
            return None, None
        return value(e.mean - e.half_width), value(e.mean + e.half_width)

    return {
        "factors": found.factors,
        "scale": "difference" if metric.difference else "ratio",
        "over": found.over,
        "contexts": found.contexts,
        "all_contexts": found.all_contexts,
        "left_out": found.left_out,
        "size": value(found.size),
        "noise": value(found.noise),
        "effects": [
            {
                "levels": levels,
                "mean": value(effect.mean),
                **dict(zip(("low", "high"), interval(effect), strict=True)),
                "n": effect.n,
            }
            for levels, effect in found.effects.items()
        ],
    }


def _cell(cell: Cell, number: int, group: Group, cells: dict[int, int], runs: dict[int, int]) -> dict[str, Any]:
    estimates: dict[str, Any] = {}
    for metric in METRICS:
        for key in (metric.key, f"{metric.key}_iqr"):
            if found := cell.estimate(metric, key):
                estimates[key] = _estimate(found)
    against = group.against_best(cell)
    return {
        "group": number,
        "status": cell.status,
        "choices": cell.choices,
        "rank": group.rank(cell),
        "n": len(cell.values(ACCURACY.key)),
        "metrics": estimates,
        "noisy": [metric.key for metric in METRICS if noisy(cell, metric)],
        "against_best": against and {"verdict": against.verdict, **_estimate(against.estimate)},
        "conditions": group.conditions.index(cell.conditions) if cell.conditions else None,
        "note": tables.note(group, cell),
        "same_as": tables.original(group, cell) if cell.same_as else None,
        "runs": [runs[id(run)] for run in cell.runs],
    }


def _estimate(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"mean": None, "sd": None, "n": 0, "half_width": None}
    return {"mean": found.mean, "sd": found.sd, "n": found.n, "half_width": found.half_width}


def _run(run: Run, cell: int) -> dict[str, Any]:
    epochs, problem = run.epochs()
    step = math.ceil(len(epochs) / MOST_EPOCHS) or 1
    kept = epochs[len(epochs) - 1 :: -step][::-1] if epochs else []
    curves = {key: [_short(row.get(key)) for row in kept] for key in CURVES if any(key in row for row in kept)}
    return {
        "cell": cell,
        "folder": run.folder,
        "number": run.number,
        "seed": run.seed,
        "status": run.status,
        "same_as": run.same_as,
        "error": run.error,
        "command": run.command,
        "metrics": run.metrics,
        "measured_on": {key: run.environment[key] for key in CONDITIONS if key in run.environment},
        "problems": [*run.problems, *([problem] if problem else [])],
        "epochs": {"epoch": [row["epoch"] for row in kept], **curves} if kept else None,
    }


def _short(value: float | None) -> float | None:
    """Rounds to six significant digits, enough for a curve."""
    return None if value is None else float(f"{value:.6g}")
