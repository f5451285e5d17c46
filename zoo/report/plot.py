"""Draws the main plot, for papers: test accuracy against cost, with error bars over seeds and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError, need_packages
from zoo.report.cells import Cell, Group
from zoo.report.metrics import ACCURACY, METRICS, Metric
from zoo.report.pareto import front_cells

PANELS = tuple(metric for metric in METRICS if metric.name in ("params", "macs", "train"))
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#9B8B00")
"""Colours by Okabe and Ito, distinguishable with any colour vision; the HTML page uses the same."""
MARKERS = "os^DvP*X"
MOST_GROUPS = 6


def draw(groups: Sequence[Group], path: str | Path) -> None:
    """Draws one row of panels per recipe: colour by conv kind, marker by model, filled for the first activation.

    Raises:
        ConvzooError: matplotlib is not installed, no run has completed, or the file cannot be written.
    """
    need_packages("plot", "matplotlib")
    from matplotlib.figure import Figure

    groups = [group for group in groups if any(_drawn(cell) for cell in group.cells)][:MOST_GROUPS]
    if not groups:
        raise ConvzooError("no completed run to plot.")
    levels = {key: sorted({_name(c, key) for g in groups for c in g.cells if _drawn(c)}) for key in _KEYS}
    figure = Figure(figsize=(12, 0.6 + 3.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), len(PANELS), sharey="row", squeeze=False)
    for group, row in zip(groups, axes, strict=True):
        for metric, axis in zip(PANELS, row, strict=True):
            _panel(axis, group, metric, levels)
        row[0].set_ylabel("test accuracy")
        if len(groups) > 1:
            row[1].set_title(_plain(group.title), fontsize="medium")
    figure.legend(handles=_legend(axes[0][0], levels), loc="outside upper center", ncols=8, frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConvzooError(f"{path} cannot be drawn: {error}.") from None


_KEYS = ("model", "conv", "act")


def _name(cell: Cell, key: str) -> str:
    return str(cell.choices.get(key, "–"))


def _drawn(cell: Cell) -> bool:
    """Returns whether to draw a cell. One that shows another cell's figures would cover it."""
    return bool(cell.completed) and not cell.same_as and cell.mean(ACCURACY) is not None


def _panel(axis: Any, group: Group, metric: Metric, levels: dict[str, list[str]]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    cells = [cell for cell in group.cells if _drawn(cell) and (cell.mean(metric) or 0) > 0]
    hidden = 0
    if metric.measured and len(group.conditions) > 1:
        hidden = sum(cell.conditions != group.conditions[0] for cell in cells)
        cells = [cell for cell in cells if cell.conditions == group.conditions[0]]
    costs = [cell.mean(metric) or 0 for cell in cells]
    for cell, cost in zip(cells, costs, strict=True):
        colour = COLOURS[levels["conv"].index(_name(cell, "conv")) % len(COLOURS)]
        accuracy = cell.estimate(ACCURACY)
        axis.errorbar(
            cost,
            accuracy and accuracy.mean,
            yerr=(accuracy and accuracy.sd) or None,
            fmt=MARKERS[levels["model"].index(_name(cell, "model")) % len(MARKERS)],
            color=colour,
            markerfacecolor=colour if _name(cell, "act") == levels["act"][0] else "none",
            markersize=7 if len(cells) < 100 else 4,
            elinewidth=1,
        )
    front = [(cell.mean(metric), cell.mean(ACCURACY)) for cell in front_cells(group, metric) if cell in cells]
    if len(front) > 1:
        axis.plot(*zip(*front, strict=True), drawstyle="steps-post", color="0.5", linewidth=1, zorder=0)
    if cells:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(costs) < 30 * min(costs) else (1,)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(metric.label + (f" ({hidden} measured elsewhere left out)" if hidden else ""))
    axis.grid(alpha=0.3)


def _legend(axis: Any, levels: dict[str, list[str]]) -> list[Any]:
    handles = [
        axis.scatter([], [], marker=MARKERS[i % len(MARKERS)], color="grey", label=_plain(name))
        for i, name in enumerate(levels["model"])
    ]
    handles += [
        axis.scatter([], [], marker="s", color=COLOURS[i % len(COLOURS)], label=_plain(name))
        for i, name in enumerate(levels["conv"])
    ]
    first, *others = levels["act"]
    if others:
        handles.append(axis.scatter([], [], color="grey", label=_plain(first)))
        handles.append(axis.scatter([], [], facecolors="none", edgecolors="grey", label=_plain(", ".join(others))))
    return [*handles, *axis.plot([], [], color="0.5", linewidth=1, label="Pareto front")]


def _plain(text: str) -> str:
    """Escapes dollar signs, which matplotlib takes for formulas."""
    return text.replace("$", r"\$")
