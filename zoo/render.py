"""Renders tables for the command line: short numbers, Markdown or aligned columns, and no truncation in files."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

MORE = "+ ?"
"""Suffix of a MAC count that is incomplete, because some operation was not counted."""


def short(value: float) -> str:
    """Formats a count with three digits: 5.29 M, 12.4 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 999.5 * factor else f"{value / factor:.0f} {unit}"
    return str(value)


def markdown(header: Sequence[str], body: Sequence[Sequence[str]], texts: Collection[str]) -> str:
    """Renders a Markdown table. Columns that are not in ``texts`` are numbers and right-aligned."""
    rule = [":---" if name in texts else "---:" for name in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *body]) + "\n"


def terminal(
    header: Sequence[str], body: Sequence[Sequence[str]], texts: Collection[str], title: str | None = None
) -> Table:
    """Renders the same table for the terminal. Brackets are text, not rich's markup."""
    table = Table(title=title and Text(title), title_justify="left")
    for name in header:
        table.add_column(Text(name), justify="left" if name in texts else "right", no_wrap=True)
    for row in body:
        table.add_row(*map(Text, row))
    return table


def console(width: int) -> Console:
    """Returns the console; for a file or a pipe ``width`` columns wide, so that nothing is cut off at 80."""
    found = Console()
    return found if found.is_terminal else Console(width=width)
