"""The log of what convzoo does: one logger with one handler, as Lightning has.

Status messages go through ``log``; tables and results, which are what a command was typed for, are printed. Needs no
torch.
"""

from __future__ import annotations

import logging
import sys

from zoo.ranks import global_rank
from zoo.text import clean

LEVELS = ("debug", "info", "warning", "error")
STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red"}

log = logging.getLogger("convzoo")


class Terminal(logging.Handler):
    """Writes messages to the current ``sys.stdout``, coloured by level on a terminal.

    Only rank 0 writes; a message that every rank must give passes ``extra={"every_rank": True}``.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record at once; control characters in quoted user input are replaced."""
        if global_rank() and not getattr(record, "every_rank", False):
            return
        try:
            text = clean(self.format(record))
            if sys.stdout.isatty():
                from rich.console import Console  # slow to import
                from rich.text import Text

                Console().print(Text(text, style=STYLES.get(record.levelno, "")), soft_wrap=True)
            else:
                print(text, flush=True)
        except (OSError, ValueError):  # The reader is gone, or the stream is closed.
            self.handleError(record)


def set_level(level: str) -> None:
    """Shows messages of ``level`` (one of ``LEVELS``) and above."""
    log.setLevel(level.upper())


# A program that configures the logger before it imports convzoo keeps its own handlers.
if not log.handlers:
    log.addHandler(Terminal())
    log.setLevel(logging.INFO)
    log.propagate = False
