"""Compares runs by their result files: tables, plot, HTML page. Needs neither torch nor Lightning nor NumPy."""

from __future__ import annotations

from zoo.report.groups import compare
from zoo.report.metrics import COLUMNS, human
from zoo.report.runs import Run, load_results
from zoo.report.terminal import print_result, print_table

__all__ = ["COLUMNS", "Run", "compare", "human", "load_results", "print_result", "print_table"]
