"""Formats the comparison as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from zoo import render
from zoo.report.cells import Group, sort_cells, varying
from zoo.report.metrics import ACCURACY, METRICS, Metric
from zoo.report.tables import conditions_text, header_and_rows, note, reasons, versions_note


def markdown(groups: Sequence[Group], sort: Metric = ACCURACY) -> str:
    """Returns one Markdown table per group."""
    tables = []
    for group in groups:
        header, rows, texts = header_and_rows(group, sort)
        body = [[_markdown(value) for value in row] for row in rows]
        table = render.markdown([_markdown(name) for name in header], body, texts)
        table += f"\n{_markdown(versions)}\n" if (versions := versions_note(group)) else ""
        tables.append(f"**{_markdown(group.title)}**\n\n{table}" if len(groups) > 1 else table)
    return "\n".join(tables)


def _markdown(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escaped)


_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "–": "--", "…": r"\dots{}", "\n": " "},
}


def latex(groups: Sequence[Group], sort: Metric = ACCURACY) -> str:
    """Returns one LaTeX ``tabular`` per group, with rules of the booktabs package."""
    tables = ["% needs \\usepackage{booktabs}\n"]
    for group in groups:
        header, rows, texts = header_and_rows(group, sort)
        lines = [" & ".join(_latex(value) for value in row) + r" \\" for row in [header, *rows]]
        columns = "".join("l" if name in texts else "r" for name in header)
        if len(groups) > 1:
            tables.append(f"% {_latex(group.title)}\n")
        begin, end = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"], [r"\bottomrule", r"\end{tabular}", ""]
        tables.append("\n".join([*begin, lines[0], r"\midrule", *lines[1:], *end]))
    return "\n".join(tables)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def to_csv(groups: Sequence[Group], sort: Metric = ACCURACY) -> str:
    """Returns one CSV row per cell, with all digits: mean, sd and n of each metric, status, errors and commands."""
    cells = [cell for group in groups for cell in group.cells]
    choices = list(dict.fromkeys([*varying(cells), *(key for cell in cells for key in cell.choices)]))
    records = []
    for group in groups:
        for cell in sort_cells(group.cells, sort):
            record: dict[str, object] = {"recipe": group.title, **{key: cell.choices.get(key) for key in choices}}
            record |= {
                "status": cell.status,
                "note": "; ".join([note(group, cell), *reasons(cell)]).strip("; "),
                "rank": group.rank(cell),
            }
            for metric in METRICS:
                found = cell.estimate(metric)
                record[metric.key] = found and found.mean
                record[f"{metric.key}_sd"] = found and found.sd
                record[f"{metric.key}_n"] = found and found.n
                if metric.measured and metric.key.startswith("speed/"):
                    iqr = cell.estimate(metric, f"{metric.key}_iqr")
                    record[f"{metric.key}_iqr"] = iqr and iqr.mean
            against = group.against_best(cell)
            record |= {
                "vs best": against and against.verdict,
                "measured on": conditions_text(cell.conditions) if cell.conditions else None,
                "command": "\n".join(dict.fromkeys(run.command for run in cell.runs if run.command)),
                "folder": "\n".join(run.folder for run in cell.runs),
            }
            records.append(record)
    out = io.StringIO()
    rows = [list(records[0]), *(record.values() for record in records)]
    csv.writer(out, lineterminator="\n").writerows([_spreadsheet(value) for value in row] for row in rows)
    return out.getvalue()


def _spreadsheet(value: object) -> object:
    """Prefixes texts that begin like a formula with an apostrophe, so that a spreadsheet does not evaluate them."""
    return f"'{value}" if isinstance(value, str) and value[:1] in set("=+-@\t\n") else value
