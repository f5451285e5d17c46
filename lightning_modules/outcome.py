"""How a run ended: as an exit code, in ``result.json``, and in words."""

from __future__ import annotations

import os
import re
import shlex
import signal
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.config.values import quoted
from lightning_modules.hardware.ddp import USER_ERROR
from lightning_modules.hardware.signals import Stopped, StopSignals
from zoo.errors import ConvzooError


def as_stop(error: BaseException, signals: StopSignals) -> BaseException:
    """Returns `Stopped` if the error is how a signal ended the run, else the error itself."""
    if signals.pending is not None and isinstance(error, Exception):
        return Stopped(signals.pending)  # The signal also stopped something the run depends on.
    # Lightning installs its own handlers during validation and testing; it turns Ctrl-C into SystemExit(1).
    if isinstance(error, SIGTERMException):
        return Stopped(signal.SIGTERM)
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == 1):
        return Stopped(signal.SIGINT)
    return error


def status(error: BaseException) -> dict[str, Any]:
    """Returns what ``result.json`` says of a run that ended with an error."""
    ended = {"status": "interrupted" if isinstance(error, Stopped) else "failed"}
    ended["error"] = str(error) or type(error).__name__
    if not isinstance(error, (Stopped, ConvzooError)):
        ended["traceback"] = "".join(traceback.format_exception(error))
    return ended


def exit_code(error: BaseException | None) -> int:
    """Returns the exit code of a run: 0, that of the signal that stopped it, 2 for a user's mistake, 1 for a bug."""
    if isinstance(error, Stopped):
        return error.code
    return USER_ERROR if isinstance(error, ConvzooError) else int(error is not None)


def resume_hint(folder: Path, command: str) -> str:
    """Returns the instruction for resuming a stopped run."""
    where = os.path.relpath(folder)
    if not re.fullmatch(r"[\w./-]+", where, re.ASCII):
        # Quoted for Hydra, then for the shell.
        where = shlex.quote(quoted(where))
    return f"Resume with: {command} hydra.run.dir={where}"
