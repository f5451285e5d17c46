"""Start, watch and stop W&B's service, the process that writes its file and talks to the server.

The service may hang or be killed at any time.
"""

from __future__ import annotations

import logging
import subprocess
from contextlib import suppress
from typing import Any

SERVICE_S = 10.0
"""Timeout for the start of W&B's service, in seconds; a fraction of a second is enough on an idle machine."""


def quiet_setup() -> Any:
    """Start W&B's service if it is not running, with W&B's own output silenced.

    Returns:
        W&B's settings.
    """
    import wandb

    # W&B also writes log files; on a full disk, Python's logging would print a traceback for each of their lines.
    logging.raiseExceptions = False
    return wandb.setup(settings=wandb.Settings(silent=True, x_service_wait=SERVICE_S)).settings


def service() -> Any:
    """Return the process of W&B's service if this process started it, else None; W&B has no public API for it."""
    from wandb.sdk import wandb_setup

    connection = getattr(getattr(wandb_setup, "_singleton", None), "_connection", None)
    return getattr(getattr(connection, "_proc", None), "_process", None)


def service_died(within_s: float = 0.0) -> bool:
    """Whether W&B's service has exited, or exits within this many seconds."""
    if (process := service()) is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    return process.returncode is not None


def kill_service() -> None:
    """Kill W&B's service, so that every call waiting for it fails."""
    if process := service():
        process.kill()


def stop_service() -> None:
    """Stop W&B's service and wait until its files are written: the last records may not be on disk before."""
    import wandb

    with suppress(BaseException):  # SystemExit with the exit code of a killed service
        wandb.teardown()
