"""Runs one cell, from its configuration to its result. Read it from the top."""

from __future__ import annotations

import json
import logging
import os
import traceback
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.callbacks.last import NAME as LAST
from lightning_modules.cell import Cell
from lightning_modules.config import check, describe_cell
from lightning_modules.earlier import finished_before
from lightning_modules.hardware import Hardware, check_ranks, global_rank, inside_a_rank, launch_ranks, resolve_hardware
from lightning_modules.identity import cell_id, recipe
from lightning_modules.lock import Lock
from lightning_modules.result import FILE, LOCK, environment, write_result
from lightning_modules.signals import Stopped, StopSignals
from lightning_modules.time_cell import time_cell
from lightning_modules.tracking import Tracking
from zoo.errors import ConvzooError

JOB_FILE = "job.json"
"""What the ranks of a distributed run read: the configuration and the command."""


def run(config: dict[str, Any], folder: str | os.PathLike[str], command: str) -> dict[str, Any]:
    """Trains and tests one cell; with ``task=time`` it measures the cell and trains nothing.

    Args:
        config: The resolved configuration (the tree of ``conf/config.yaml``) as plain values.
        folder: Where the run's files go; made if need be.
        command: What reproduces the run; it goes into the result.

    Returns:
        The result, as it stands in ``result.json`` in the folder.

    Raises:
        ConvzooError: A mistake in the configuration, or a folder with the result or the checkpoint of another one;
            nothing was trained.
        SystemExit: The run was stopped (130: Ctrl-C, 143: SIGTERM); the result says "interrupted", and the same call
            goes on with it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check(config)
    hardware = resolve_hardware(config["hardware"], config["trainer"])
    check_ranks(hardware)
    if global_rank() > 0:
        done = finished_before(config, folder, hardware.name)
        return done or run_rank(config, folder, command, hardware)
    with Lock(folder / LOCK, "a run"):
        if done := finished_before(config, folder, hardware.name):
            return done
        if hardware.world_size > 1 and not inside_a_rank():
            return _run_ranks(config, folder, command, hardware)
        return run_rank(config, folder, command, hardware)


def _run_ranks(config: dict[str, Any], folder: Path, command: str, hardware: Hardware) -> dict[str, Any]:
    """Runs the cell once per rank of this machine, each in a process of its own."""
    (folder / JOB_FILE).write_text(json.dumps({"config": config, "command": command}))
    (folder / FILE).unlink(missing_ok=True)
    try:
        launch_ranks(hardware.devices, "lightning_modules.rank", folder)
    except (ConvzooError, RuntimeError) as error:
        # Whichever rank failed first knows why; what rank 0 saw is that the other one was gone.
        result = _read(folder) or _empty(config, command, hardware)
        if result["status"] != "interrupted":
            write_result(folder, result | {"status": "failed", "error": str(error)})
        raise
    except SystemExit:
        if _read(folder) is None:
            write_result(folder, _empty(config, command, hardware) | {"status": "interrupted"})
        raise
    return _read(folder)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else None


def _empty(config: dict[str, Any], command: str, hardware: Hardware) -> dict[str, Any]:
    return {
        "status": "failed",
        "id": cell_id(config),
        "cell": describe_cell(config, hardware.name),
        "metrics": {},
        "environment": environment(),
        "wandb": {"id": None, "mode": None, "dir": None},
        "checkpoint": None,
        "command": command,
        "recipe": recipe(config),
    }


def run_rank(config: dict[str, Any], folder: Path, command: str, hardware: Hardware) -> dict[str, Any]:
    """Trains and tests one cell in this process: alone, or as one rank of several."""
    _be_quiet()
    main = global_rank() == 0
    result = _empty(config, command, hardware)
    tracking = None
    signals = StopSignals()
    try:
        signals.install()
        cell = Cell(config, folder, hardware)
        result |= {"cell": cell.choices, "environment": result["environment"] | cell.conditions}
        if main:
            tracking = Tracking(config["logger"], folder, cell.choices, config, cell.conditions["plan"])
        result["wandb"] = tracking.wandb if tracking else result["wandb"]
        if config["task"] == "time":
            result["metrics"] = time_cell(cell)
        else:
            result["metrics"] = cell.train(tracking.logger if tracking else False, signals)
        result |= {"status": "completed", "checkpoint": cell.checkpoint}
        result["environment"] |= cell.conditions
    except BaseException as error:
        status, code = _outcome(error)
        result |= {"status": status, "error": str(error) or type(error).__name__}
        if not isinstance(error, ConvzooError) and status == "failed":
            result["traceback"] = traceback.format_exc()
        if code is not None:
            raise SystemExit(code) from None
        raise
    finally:
        signals.ignore()
        if main:
            write_result(folder, result)
            if result["status"] == "completed":
                (folder / LAST).unlink(missing_ok=True)
            if tracking:
                tracking.finish(result["metrics"], result["status"])
        signals.restore()
    return result


def _outcome(error: BaseException) -> tuple[str, int | None]:
    """Status and exit code of a run that ended with an exception; None as a code: the exception itself is the end."""
    if isinstance(error, Stopped):
        return "interrupted", error.code
    # Lightning has handlers of its own while it validates and tests; of Ctrl-C it makes SystemExit(1).
    if isinstance(error, SIGTERMException):
        return "interrupted", 143
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == 1):
        return "interrupted", 130
    return "failed", None


def _be_quiet() -> None:
    """Silences what Lightning says about things that are so on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "does not have many workers",
        "exists and is not empty",
        "log_every_n_steps",
        "treespec, LeafSpec",
        "sync_dist",
        "resuming from a checkpoint that ended before the epoch",  # ours is exact
        "`srun` command is available",
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
