"""The log of what convzoo does: one logger with one handler, as Lightning has.

Status messages go through ``log``; tables and results, which are what a command was typed for, are printed. Needs no
torch.
"""

from __future__ import annotations

import logging
import os
import sys

from rich.console import Console
from rich.text import Text

from zoo.text import clean

LEVELS = ("debug", "info", "warning", "error")
STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red"}
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")

log = logging.getLogger("convzoo")


class Terminal(logging.Handler):
    """Writes messages to the current ``sys.stdout``, coloured by level on a terminal.

    Only rank 0 writes; a message that every rank must give passes ``extra={"every_rank": True}``.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record at once; control characters in quoted user input are replaced."""
        if rank() and not getattr(record, "every_rank", False):
            return
        try:
            text = clean(self.format(record))
            if sys.stdout.isatty():
                Console().print(Text(text, style=STYLES.get(record.levelno, "")), soft_wrap=True)
            else:
                print(text, flush=True)
        except (OSError, ValueError):  # The reader is gone, or the stream is closed.
            self.handleError(record)


def rank() -> int:
    """Returns this process's rank from the launcher's environment, 0 if there is none."""
    found = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
    return int(found) if found.isdigit() else 0


def set_level(level: str) -> None:
    """Shows messages of ``level`` (one of ``LEVELS``) and above."""
    log.setLevel(level.upper())


# A program that configures the logger before it imports convzoo keeps its own handlers.
if not log.handlers:
    log.addHandler(Terminal())
    log.setLevel(logging.INFO)
    log.propagate = False
