"""The command ``python -m zoo report``: options and execution."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from zoo.errors import ConvzooError, reason
from zoo.report import document, formats, page
from zoo.report.groups import compare
from zoo.report.metrics import METRICS
from zoo.report.runs import load_results
from zoo.report.terminal import print_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--html", metavar="FILE", type=Path, help="one page with everything; opens without a network")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="a row a cell, all digits, for spreadsheets")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="the table as Markdown")
    parser.add_argument("--latex", metavar="FILE", type=Path, help="the table for a paper")
    parser.add_argument("--json", metavar="FILE", type=Path, help="every figure, for programs")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="accuracy against cost (.svg, .png, .pdf)")
    parser.add_argument(
        "--sort", choices=[metric.name for metric in METRICS], default="acc", help="the best first; default: acc"
    )


def run(given: argparse.Namespace) -> None:
    """Reads the runs, prints the tables and writes the requested files.

    Raises:
        ConvzooError: No runs were found, a file cannot be written, or the plot lacks matplotlib or a completed run.
    """
    results = load_results(given.folders)
    sort = next(metric for metric in METRICS if metric.name == given.sort)
    print_table(results, sort=sort)
    groups = compare(results)
    _write(given.csv, lambda: formats.to_csv(groups, sort))
    _write(given.markdown, lambda: formats.markdown(groups, sort))
    _write(given.latex, lambda: formats.latex(groups, sort))
    if given.plot:
        from zoo.report import plot

        plot.draw(groups, given.plot)
    if given.json or given.html:
        everything = document.build(results, given.folders)
        _write(given.json, lambda: json.dumps(everything, ensure_ascii=False, allow_nan=False) + "\n")
        _write(given.html, lambda: page.render(everything))


def _write(path: Path | None, text: Callable[[], str]) -> None:
    if path is None:
        return
    try:
        path.write_text(text(), "utf-8")
    except (OSError, ValueError) as error:
        raise ConvzooError(f"{path} cannot be written: {reason(error)}.") from None
