"""Formats the comparison as rows of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from zoo.render import MORE
from zoo.report.cells import CHOICES, Cell, Group, noisy, sort_cells, varying
from zoo.report.intervals import Difference, Estimate
from zoo.report.metrics import ACCURACY, CONDITIONS, METRICS, Metric, human
from zoo.report.runs import Run
from zoo.speeds.noise import MARK

TEXT_COLUMNS = ("vs best", "measured on", "note")


def header_and_rows(group: Group, sort: Metric = ACCURACY) -> tuple[list[str], list[list[str]], set[str]]:
    """Formats one group as a table. Leaves out columns that are empty or the same in every row.

    Returns:
        The header, one row per cell, and the names of the text columns.
    """
    cells = group.cells if sort is ACCURACY else sort_cells(group.cells, sort)
    choices = varying(cells)
    seeds = any(len(cell.values(ACCURACY.key)) > 1 for cell in cells)
    columns: dict[str, list[str]] = {key: [str(c.choices.get(key, "–")) for c in cells] for key in choices}
    for metric in METRICS:
        columns[metric.label] = [_shown(cell, metric) for cell in cells]
        if metric is ACCURACY and seeds:
            columns["n"] = [str(len(cell.values(ACCURACY.key))) for cell in cells]
            columns["vs best"] = [_against(group, cell) for cell in cells]
    if len(group.conditions) > 1:
        columns["measured on"] = [_letter(group, cell) for cell in cells]
    columns["note"] = [note(group, cell) for cell in cells]
    if not any(columns["note"]):
        del columns["note"]
    rows = [[clip(value) for value in row] for row in zip(*columns.values(), strict=True)]
    return list(columns), rows, {*choices, *TEXT_COLUMNS}


def spread(found: Estimate | None, key: str) -> str:
    """Formats a mean, with its standard deviation if that is not 0."""
    if found is None:
        return "–"
    return human(found.mean, key) + (f" ± {human(found.sd, key)}" if found.sd else "")


def verdict(difference: Difference | None) -> str:
    """Formats a difference: ``−0.0123 ± 0.0040`` (± half the interval's width), ``within noise``, or ``? (reason)``."""
    if difference is None or difference.verdict == "within noise":
        return difference.verdict if difference else ""
    if difference.estimate is None or difference.verdict not in ("higher", "lower"):
        return f"? ({difference.verdict})"
    return f"{difference.estimate.mean:+.4f} ± {difference.estimate.half_width:.4f}".replace("-", "−")


def versions_note(group: Group) -> str:
    """Returns one line that says which runs used different versions of a plugin; empty if none did."""
    found = [
        f"{name} ({', '.join(f'{code} in {count} of the runs' for code, count in codes.most_common())})"
        for name, codes in group.plugin_versions.items()
    ]
    return f"Different versions of a plugin in one table: {'; '.join(found)}." if found else ""


def note(group: Group, cell: Cell) -> str:
    """Returns the note on a cell: how many seeds did not complete, or whose figures it shows."""
    parts = [cell.note()] if cell.completed and cell.note() else []
    if cell.same_as:
        parts.append(f"same as {original(group, cell)}")
    return "; ".join(parts)


def reasons(cell: Cell) -> list[str]:
    """Returns why runs of a cell did not complete, one line per distinct reason."""
    return list(dict.fromkeys(f"{run.status}: {clip(run.error, 200)}" for run in cell.runs if run.error))


def name(cell: Cell) -> str:
    """Returns a short name of a cell, from its choices."""
    return clip(
        " ".join(str(cell.choices[k]) for k in CHOICES if k in cell.choices and k not in ("image_size", "hardware"))
    )


def original(group: Group, cell: Cell) -> str:
    """Describes the cell whose figures a cell shows, by the choices in which it differs."""
    for other in group.cells:
        if any(run.folder == cell.same_as and not run.same_as for run in other.runs):
            differing = [k for k in other.choices if other.choices[k] != cell.choices.get(k)]
            return " ".join(f"{k}={other.choices[k]}" for k in differing) or "another job"
    return cell.same_as or ""


def clip(text: str, limit: int = 60) -> str:
    """Returns the first non-empty line, shortened to ``limit`` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _shown(cell: Cell, metric: Metric) -> str:
    if metric is ACCURACY:
        return spread(cell.estimate(metric), metric.key) if cell.completed else progress(cell)
    value = human(cell.mean(metric), metric.key)
    if metric.key == "cost/macs" and cell.values("cost/uncounted"):
        return f"{value} {MORE}"
    return f"{value} {MARK}" if noisy(cell, metric) else value


def progress(cell: Cell) -> str:
    """Returns the status of a cell without a result; if it is running, with the last epoch and its accuracy."""
    if cell.status == "running":
        run = next(run for run in cell.runs if run.status == "running")
        epochs, _ = run.epochs()
        if epochs:
            accuracy = epochs[-1].get("val/acc")
            return f"running: epoch {epochs[-1]['epoch'] + 1:.0f}" + (
                f", val {accuracy:.4f}" if accuracy is not None else ""
            )
    return cell.status


def _against(group: Group, cell: Cell) -> str:
    return "best" if cell is group.best else verdict(group.against_best(cell))


def _letter(group: Group, cell: Cell) -> str:
    if not cell.completed:
        return ""
    return "mixed" if cell.conditions is None else letter(group.conditions.index(cell.conditions))


def letter(number: int) -> str:
    """Numbers conditions: a, b, … z, then a1, b1, …"""
    return "abcdefghijklmnopqrstuvwxyz"[number % 26] + (str(number // 26) if number > 25 else "")


def conditions_text(conditions: Sequence[str]) -> str:
    """Formats conditions: ``device AMD EPYC, threads 1``."""
    named = zip(CONDITIONS, conditions, strict=True)
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in named if value != "–") or "unknown"


def status_counts(runs: Sequence[Run]) -> dict[str, int]:
    """Counts runs by status; those that show another run's figures count as ``same as another``."""
    return dict(Counter("same as another" if run.same_as else run.status for run in runs))
