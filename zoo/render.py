"""How the command line shows tables: numbers as people read them, columns of text, a console that cuts nothing off."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

MORE = "+ ?"
"""Behind MACs that are not all: something was not counted."""


def short(value: float) -> str:
    """A count with three digits: 5.29 M, 12.4 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 999.5 * factor else f"{value / factor:.0f} {unit}"
    return str(value)


def markdown(header: Sequence[str], body: Sequence[Sequence[str]], texts: Collection[str]) -> str:
    """A Markdown table; columns that are not in ``texts`` are numbers, to the right."""
    rule = [":---" if name in texts else "---:" for name in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *body]) + "\n"


def terminal(
    header: Sequence[str], body: Sequence[Sequence[str]], texts: Collection[str], title: str | None = None
) -> Table:
    """The same for the terminal. Brackets are text, not rich's mark-up."""
    table = Table(title=title and Text(title), title_justify="left")
    for name in header:
        table.add_column(Text(name), justify="left" if name in texts else "right", no_wrap=True)
    for row in body:
        table.add_row(*map(Text, row))
    return table


def console(width: int) -> Console:
    """The terminal. A file or a pipe is no 80-column terminal: nothing there should be cut off."""
    found = Console()
    return found if found.is_terminal else Console(width=width)
