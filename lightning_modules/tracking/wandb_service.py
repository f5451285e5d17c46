"""W&B's service: a process of its own that writes the file and talks to the server. It may hang, or be killed."""

from __future__ import annotations

import logging
import subprocess
from contextlib import suppress
from typing import Any

SERVICE_S = 10.0
"""For W&B's service to start: a fraction of a second, if the machine is not overloaded."""


def quiet_setup() -> Any:
    """Starts W&B's service if need be; W&B says nothing by itself from here on.

    Returns:
        W&B's settings.
    """
    import wandb

    # W&B logs to files beside its own. Where their disk is full, Python would print a traceback for each line of them.
    logging.raiseExceptions = False
    return wandb.setup(settings=wandb.Settings(silent=True, x_service_wait=SERVICE_S)).settings


def service() -> Any:
    """The process of W&B's service, if this one started it. W&B has no public name for it."""
    from wandb.sdk import wandb_setup

    connection = getattr(getattr(wandb_setup, "_singleton", None), "_connection", None)
    return getattr(getattr(connection, "_proc", None), "_process", None)


def service_died(within_s: float = 0.0) -> bool:
    """Whether W&B's service has ended by itself, or does so soon."""
    if (process := service()) is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    return process.returncode is not None


def kill_service() -> None:
    """Ends W&B's service at once; every call that waits for it fails."""
    if process := service():
        process.kill()


def stop_service() -> None:
    """Ends W&B's service and waits until its files are written: before that the last records may not be on the disk."""
    import wandb

    with suppress(BaseException):  # SystemExit with the exit code of a service that was killed
        wandb.teardown()
