"""Prints the comparison, one run, or the speeds that ``task=time`` measured, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from zoo import render
from zoo.report import tables
from zoo.report.cells import noisy
from zoo.report.groups import compare
from zoo.report.metrics import ACCURACY, METRICS, Metric, human
from zoo.report.runs import STATUSES, Run
from zoo.speeds.noise import LEGEND, MARK, is_noisy
from zoo.text import clean

MOST_LINES = 20
"""Maximum number of lines to print for errors, and for problems with files."""
WIDEST = 1000
"""Width in characters when writing to a file or pipe, where no column needs to be left out."""
LEFT_OUT_FIRST = (
    "fit s",
    "infer img/s",
    "latency ms",
    "activations",
    "train img/s",
    "MACs",
    "note",
    "params",
    "vs best",
)

SPEEDS = (
    ("train, with data", "speed/train_images_per_s", "img/s"),
    ("train, data there", "speed/step_images_per_s", "img/s"),
    ("  forward", "speed/forward_ms", "ms a batch"),
    ("  loss", "speed/loss_ms", "ms a batch"),
    ("  backward", "speed/backward_ms", "ms a batch"),
    ("  optimizer", "speed/optimizer_ms", "ms a batch"),
    ("  data (fetch, augment)", "speed/data_ms", "ms a batch"),
    ("train, one image", "speed/train_latency_ms", "ms a step"),
    ("inference", "speed/infer_images_per_s", "img/s"),
    ("inference, one image", "speed/latency_ms", "ms"),
)
SHARES = (
    ("waits for data", "speed/data_wait", "of the training loop's time"),
    ("train", "speed/train_share_of_peak", "of the peak of matrix products"),
    ("", "speed/train_share_of_bound", "of the roof (products or memory, whichever is lower)"),
    ("inference", "speed/infer_share_of_peak", "of the peak of matrix products"),
    ("", "speed/infer_share_of_bound", "of the roof"),
)
MEMORY = (
    ("memory: process", "speed/peak_memory_mb", "MiB at most"),
    ("  training adds", "speed/train_memory_mb", "MiB"),
    ("  inference adds", "speed/infer_memory_mb", "MiB"),
)


def print_table(results: Sequence[Run], title: str | None = None, sort: Metric = ACCURACY) -> None:
    """Prints a table for each recipe, then why runs did not complete, and the number of runs by status."""
    console = render.console(WIDEST)
    groups = compare(results)
    for group in groups:
        heading = " · ".join(text for text in (title, group.title if len(groups) > 1 else None) if text)
        header, rows, texts = tables.header_and_rows(group, sort)
        header, rows, gone = _fit(header, rows, console.width)
        console.print(render.terminal(header, rows, texts, heading or None))
        if gone:
            print(f"This terminal has no room for {', '.join(gone)}: make it wider, or write --html or --csv FILE.")
        if versions := tables.versions_note(group):
            print(versions)
        if len(group.conditions) > 1:
            print("Speeds, latency and time were measured under different conditions: compare equal letters only.")
            for number, conditions in enumerate(group.conditions):
                print(f"  {tables.letter(number)}: {tables.conditions_text(conditions)}")
    if len(groups) > 1:
        print(f"{len(groups)} recipes: rows of different tables are not ranked against each other.")
    cells = [cell for group in groups for cell in group.cells]
    if any(cell.choices.get("task") == "time" for cell in cells):
        print("task=time measures and trains nothing: such cells have no accuracy.")
    if any(noisy(cell, metric) for cell in cells for metric in METRICS):
        print(LEGEND)
    trained = [cell for cell in cells if cell.values(ACCURACY.key)]
    if trained and not any(len(cell.values(ACCURACY.key)) > 1 for cell in trained):
        print("One seed a cell: which differences are noise is unknown. Type seed=0,1,2 to see it.")
    _print_lines([f"{tables.name(cell)}: {reason}" for cell in cells for reason in tables.reasons(cell)])
    problems = [f"{run.folder}: {problem}" for run in results for problem in run.problems]
    _print_lines(problems, f"{len(problems)} problems with files:")
    print(legend(results))


def _print_lines(lines: Sequence[str], heading: str = "") -> None:
    if lines:
        print("\n".join([*([heading] if heading else []), *(f"  {line}" for line in lines[:MOST_LINES])]))
    if len(lines) > MOST_LINES:
        print(f"  and {len(lines) - MOST_LINES} more (--json FILE has all)")


def _fit(header: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Leaves out columns, in the order of `LEFT_OUT_FIRST`, until the table fits; returns their names last."""
    widths = {name: max(len(name), *(len(row[i]) for row in rows)) + 3 for i, name in enumerate(header)}
    gone: list[str] = []
    for column in LEFT_OUT_FIRST:
        if sum(widths.values()) + 1 > width and column in widths:
            del widths[column]
            gone.append(column)
    kept = [i for i, column in enumerate(header) if column in widths]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows], gone


def legend(results: Sequence[Run]) -> str:
    """Returns one line with the number of runs, in total and by status."""
    counts = tables.status_counts(results)
    parts = [f"{counts[name]} {name}" for name in (*STATUSES, "same as another") if name in counts]
    return f"{len(results)} runs: {', '.join(parts)}."


def print_result(result: dict[str, Any], folder: str | Path) -> None:
    """Prints one run: its cell, its metrics with their spread, its folder and the command that repeats it.

    Args:
        result: Content of its ``result.json``.
        folder: Folder of that file.
    """
    cell, metrics, environment = result["cell"], result["metrics"], result["environment"]
    rows = [("cell", "  ".join(f"{k}={v}" for k, v in cell.items()))]
    for name, key in (("test accuracy", "test/acc"), ("validation accuracy", "val/acc")):
        if key in metrics:
            rows.append((name, human(metrics[key], key)))
    timed = cell.get("task") == "time"
    for metric in METRICS:
        value, iqr = metrics.get(metric.key), metrics.get(f"{metric.key}_iqr")
        if value is not None and metric.key.startswith("cost/"):
            rows.append((metric.label, f"{value:,} ({metric.text})"))
        if value is not None and metric.key.startswith("speed/") and not timed:
            spread = human(iqr, metric.key)
            rows.append((metric.label, f"{_marked(value, iqr, metric.key)} ({metric.text}; IQR {spread})"))
    if "time/fit_s" in metrics:
        rows.append(("time to fit", f"{metrics['time/fit_s']:.1f} s"))
    measured = (f"{k} {environment[k]}" for k in ("device", "devices", "dtype", "threads") if k in environment)
    rows += [("measured on", ", ".join(measured)), ("run", str(folder)), ("again", result["command"])]
    title = f"{cell['model']} · {cell['conv']} · {cell['act']}: {result['status']}"
    table = Table(title=Text(clean(title)), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        # As Text, since rich would take brackets in a command (logger.tags=[a]) for markup.
        table.add_row(name, Text(clean(value)))
    render.console(120).print(table)
    if timed:
        _print_speeds(metrics)


def _marked(median: float, iqr: float | None, key: str) -> str:
    """Formats a measured figure, with a mark if it is noisy."""
    return human(median, key) + (f" {MARK}" if iqr is not None and is_noisy(median, iqr) else "")


def _print_speeds(metrics: Mapping[str, float]) -> None:
    """Prints the ``speed/…`` metrics of a ``result.json`` written by ``task=time``."""
    rows = []
    for name, key, unit in SPEEDS:
        if (value := metrics.get(key)) is not None:
            iqr = metrics.get(f"{key}_iqr")
            rows.append([name, _marked(value, iqr, key), human(iqr, key), unit])
    rows += [[name, f"{metrics[key]:.1%}", "", text] for name, key, text in SHARES if key in metrics]
    rows += [[name, human(metrics[key], key), "", text] for name, key, text in MEMORY if key in metrics]
    render.console(120).print(render.terminal(["", "median", "± IQR", "unit"], rows, ("", "unit")))
    if "speed/peak_gmacs_per_s" in metrics:
        noisy = " (noisy: the machine was busy)" if metrics.get("speed/peak_noisy") else ""
        print(
            f"Peaks measured here: {human(metrics['speed/peak_gmacs_per_s'], '')} GMAC/s in matrix products, "
            f"{human(metrics['speed/peak_gbytes_per_s'], '')} GB/s of memory{noisy}."
        )
    if any(MARK in row[1] for row in rows):
        print(LEGEND)
