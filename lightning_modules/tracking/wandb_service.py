"""Start and stop W&B's service, the process that writes its file and talks to the server.

The service may hang or be killed at any time.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import suppress
from typing import Any

SERVICE_S = 10.0
"""Timeout for the start of W&B's service, in seconds; a fraction of a second is enough on an idle machine."""


class Silencer:
    """Receives what W&B would print, and remembers whether that was a warning or an error."""

    warned = False

    def info(self, message: str) -> None:
        """Drop a message."""

    def warning(self, message: str) -> None:
        """Drop a warning or an error, but remember that there was one."""
        self.warned = True

    error = warning


def start_service() -> Silencer:
    """Start W&B's service if it is not running, with W&B's own output silenced."""
    import wandb

    # W&B also writes log files; on a full disk, Python's logging would print a traceback for each of their lines.
    logging.raiseExceptions = False
    silencer = Silencer()
    wandb.termsetup(wandb.setup(settings=wandb.Settings(silent=True, x_service_wait=SERVICE_S)).settings, silencer)
    return silencer


def service() -> Any:
    """Return the process of W&B's service if this process started it, else None.

    W&B has no public way to end a service that hangs, and its own exit handler would wait for it forever.
    """
    setup = sys.modules.get("wandb.sdk.wandb_setup")
    connection = getattr(getattr(setup, "_singleton", None), "_connection", None)
    return getattr(getattr(connection, "_proc", None), "_process", None)


def kill_service() -> None:
    """Kill W&B's service, so that every call waiting for it fails."""
    if process := service():
        process.kill()


def stop_service() -> None:
    """Stop W&B's service and wait until its files are written: the last records may not be on disk before."""
    with suppress(BaseException):  # W&B raises SystemExit with the exit code of a killed service
        import wandb

        wandb.teardown()


def plain(error: BaseException | str) -> str:
    """Return the first line of an error's message, with the API key and passwords in URLs removed."""
    text = (str(error) or type(error).__name__).strip().partition("\n")[0]
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "…")
    return re.sub(r"//[^/@\s]+@", "//…@", text)
