"""Runs one cell, from its configuration to its result."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.cell import Cell
from lightning_modules.checkpoint.resume import LAST, PREVIOUS, Saved, find_last
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.identity import cell_id, recipe
from lightning_modules.config.rules import seconds_of
from lightning_modules.config.schema import CellSpec
from lightning_modules.config.values import quoted
from lightning_modules.hardware.ddp import launch_ranks
from lightning_modules.hardware.devices import Hardware, check_ranks, global_rank, inside_a_rank, resolve_hardware
from lightning_modules.hardware.requeue import requeued
from lightning_modules.hardware.signals import Stopped, StopSignals
from lightning_modules.results.files import remove_unfinished, why_not, write_whole
from lightning_modules.results.finished_run import finished_before
from lightning_modules.results.lock import Lock
from lightning_modules.results.result import FILE, LOCK, environment, read_result, write_result
from lightning_modules.time_cell import time_cell
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.loggers import NOTHING, entries, finish_loggers, make_loggers
from zoo.errors import ConvzooError

CONFIG_FILE = "config.json"
"""The configuration of the run in this folder, for people. Hydra's own copy would also record rejected starts."""

JOB_FILE = "job.json"
"""Input of the ranks of a distributed run: the configuration, the command, and the start time."""


def run_cell(
    settings: CellSpec | Mapping[str, Any],
    folder: str | os.PathLike[str],
    command: str,
    signals: StopSignals | None = None,
) -> dict[str, Any]:
    """Trains and tests one cell; with ``task=time`` it only measures speed.

    Args:
        settings: The cell, or the composed configuration (the tree of ``conf/config.yaml``) as plain values.
        folder: The run's folder; created if necessary.
        command: The command that reproduces the run; stored in the result.
        signals: Signal handlers that the program has already installed.

    Returns:
        The result, as written to ``result.json`` in the folder.

    Raises:
        ConvzooError: The configuration is wrong, or the folder holds the result or checkpoint of another run (in both
            cases nothing was trained); or the result could not be saved.
        SystemExit: The run was stopped (130: Ctrl-C, 143: SIGTERM, 124: ``trainer.max_time``); the result's status is
            "interrupted", and the same call resumes the run.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = settings if isinstance(settings, CellSpec) else CellSpec.of(settings)
    check(spec)
    hardware = resolve_hardware(spec.hardware, spec.trainer)
    check_ranks(hardware)
    signals = signals or StopSignals()
    if global_rank() > 0:
        done = finished_before(spec, folder, hardware.name)
        return done or run_rank(spec, folder, command, hardware, signals, find_last(folder, spec, say=False))
    with Lock(folder / LOCK, "a run"):
        if done := finished_before(spec, folder, hardware.name):
            return done
        ranks = hardware.world_size > 1 and not inside_a_rank()
        last = find_last(folder, spec, say=not ranks)
        remove_unfinished(folder)
        _write_config(folder / CONFIG_FILE, spec)
        # The result of an earlier start must not be mistaken for this one's.
        (folder / FILE).unlink(missing_ok=True)
        if ranks:
            del last  # each rank reads its own
            return _run_ranks(spec, folder, command, hardware, signals)
        return run_rank(spec, folder, command, hardware, signals, last)


def _run_ranks(spec: CellSpec, folder: Path, command: str, hardware: Hardware, signals: StopSignals) -> dict[str, Any]:
    """Runs the cell with one process per rank on this machine."""
    try:
        try:
            write_whole(
                folder / JOB_FILE, json.dumps({"config": spec.plain(), "command": command, "begun": signals.begun})
            )
        except OSError as error:
            raise ConvzooError(f"{why_not(error, folder / JOB_FILE, 10_000)}. Make room there.") from None
        launch_ranks(hardware.devices, signals, "lightning_modules.rank", folder)
    except (ConvzooError, RuntimeError, OSError) as error:
        # Report the error of the rank that failed first; rank 0 may have seen only that a peer was gone.
        result = read_result(folder) or _empty(spec, command, hardware)
        if result["status"] == "completed":
            print(f"{error} That was after the result was written.", flush=True)
            return result
        if result["status"] == "failed":
            _save(folder, result | {"error": str(error)})
        raise
    except SystemExit:
        if not read_result(folder):
            _save(folder, _empty(spec, command, hardware) | {"status": "interrupted"})
            print(_goes_on(folder, command), flush=True)
        raise
    return read_result(folder)


def _write_config(path: Path, spec: CellSpec) -> None:
    try:
        write_whole(path, json.dumps(spec.plain(), indent=2, ensure_ascii=False))
    except OSError as error:
        print(f"{why_not(error, path, 10_000)}; the run goes on without it.", flush=True)


def _goes_on(folder: Path, command: str) -> str:
    """Returns the instruction for resuming a stopped run."""
    where = os.path.relpath(folder)
    if not re.fullmatch(r"[\w./-]+", where, re.ASCII):
        # Quoted for Hydra, then for the shell.
        where = shlex.quote(quoted(where))
    return f"Go on with: {command} hydra.run.dir={where}"


def _empty(spec: CellSpec, command: str, hardware: Hardware) -> dict[str, Any]:
    return {
        "status": "failed",
        "id": cell_id(spec),
        "cell": columns(spec, hardware.name),
        "metrics": {},
        "environment": environment(),
        **NOTHING,
        "checkpoint": None,
        "command": command,
        "recipe": recipe(spec),
    }


def run_rank(
    spec: CellSpec,
    folder: Path,
    command: str,
    hardware: Hardware,
    signals: StopSignals,
    last: Saved | None,
) -> dict[str, Any]:
    """Trains and tests one cell in this process, alone or as one rank of several; resumes from ``last`` if given."""
    _be_quiet()
    main = global_rank() == 0
    result = _empty(spec, command, hardware)
    loggers, code = [], 0
    try:
        signals.install()
        signals.limit(seconds_of(spec.trainer.max_time))
        signals.look()
        cell = Cell(spec, folder, hardware, last)
        result |= {"cell": cell.choices, "environment": result["environment"] | cell.conditions}
        if main:
            loggers = make_loggers(spec, folder, cell.choices, cell.conditions["plan"], cell.goes_on)
        result |= entries(loggers)
        if spec.task == "time":
            result["metrics"] = time_cell(cell)
        else:
            result["metrics"] = cell.train(loggers, signals)
        result |= {"status": "completed", "checkpoint": cell.checkpoint}
        result["environment"] |= cell.conditions
    except BaseException as error:
        if signals.pending is not None and isinstance(error, Exception):
            # The error is a consequence: the signal also stopped something the run depends on.
            error = Stopped(signals.pending)
        status, code = _outcome(error)
        result |= {"status": status, "error": str(error) or type(error).__name__}
        if not isinstance(error, ConvzooError) and status == "failed":
            result["traceback"] = traceback.format_exc()
        if status == "failed" and torch.distributed.is_initialized():
            # Handlers run last in, first out: exit before Lightning tears down NCCL, which would wait for the other
            # ranks while they wait for this one.
            atexit.register(_leave, 2 if isinstance(error, ConvzooError) else 1)
        if code is not None:
            raise SystemExit(code) from None
        raise
    finally:
        signals.ignore()
        unsaved = _save(folder, result) if main else None
        if unsaved and result["status"] == "completed":
            result |= {"status": "failed", "error": unsaved}
        if loggers:
            exit_code = _exit_code(result["status"], code)
            outcome = Outcome(result["metrics"], result["status"], exit_code, requeued(code))
            found = finish_loggers(loggers, outcome)
            if any(result[key] != value for key, value in found.items()):
                result |= found
                with suppress(OSError):
                    write_result(folder, result)
        signals.restore()
        if main and result["status"] == "interrupted":
            print(f"interrupted: {result['error']}. {_goes_on(folder, command)}", flush=True)
    if unsaved:
        raise ConvzooError(unsaved)
    return result


def _save(folder: Path, result: dict[str, Any]) -> str | None:
    """Writes the result and removes obsolete checkpoints; returns the error message if writing failed."""
    completed = result["status"] == "completed"
    try:
        if completed:
            # Before the result, to make room for it on a full disk.
            (folder / PREVIOUS).unlink(missing_ok=True)
        write_result(folder, result)
    except OSError as error:
        unsaved = f"{why_not(error, folder / FILE, 10_000)}, so the result of this run is not saved."
        print(unsaved, flush=True)
        return f"{unsaved} Make room, and type the same command."
    if completed:
        with suppress(OSError):
            (folder / LAST).unlink(missing_ok=True)
    return None


def _outcome(error: BaseException) -> tuple[str, int | None]:
    """Returns the status and exit code for a run that raised; the code is None if the exception is to propagate."""
    if isinstance(error, Stopped):
        return "interrupted", error.code
    # Lightning installs its own handlers during validation and testing; it turns Ctrl-C into SystemExit(1).
    if isinstance(error, SIGTERMException):
        return "interrupted", 143
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == 1):
        return "interrupted", 130
    return "failed", None


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code(status: str, code: int | None) -> int:
    return code or int(status != "completed")


def _be_quiet() -> None:
    """Silences Lightning's warnings about intentional settings."""
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
