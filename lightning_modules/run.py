"""Runs one cell, from its configuration to its result."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from lightning_modules.cell import Cell
from lightning_modules.checkpoint.resume import LAST, PREVIOUS, Saved, find_last
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.identity import cell_id, recipe
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.ddp import launch_ranks
from lightning_modules.hardware.devices import Hardware, check_world_size, resolve_hardware
from lightning_modules.hardware.requeue import requeued
from lightning_modules.hardware.signals import Stopped, StopSignals
from lightning_modules.outcome import as_stop, exit_code, resume_hint, status
from lightning_modules.results.files import UnwritableError, remove_unfinished, write_whole
from lightning_modules.results.finished_run import finished_before
from lightning_modules.results.lock import Lock
from lightning_modules.results.result import FILE, LOCK, UNTRACKED, environment, read_result, write_result
from lightning_modules.time_cell import time_cell
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.loggers import entries, finish_loggers, make_loggers
from zoo.errors import ConvzooError
from zoo.log import log, set_level
from zoo.ranks import global_rank, inside_a_rank
from zoo.rules import seconds_of

CONFIG_FILE = "config.json"
"""The configuration of the run in this folder, for people. Hydra's own copy would also record rejected starts."""


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
    if spec.log:
        set_level(spec.log)
    check(spec)
    hardware = resolve_hardware(spec.hardware, spec.trainer)
    check_world_size(hardware)
    signals = signals or StopSignals()
    main = global_rank() == 0
    with Lock(folder / LOCK, "a run") if main else nullcontext():
        if done := finished_before(spec, folder, hardware.name):
            return done
        launches = hardware.world_size > 1 and not inside_a_rank()
        last = find_last(folder, spec, say=not launches)
        if main:
            _prepare(folder, spec)
        if launches:
            del last  # each rank reads its own
            return _run_ranks(spec, folder, command, hardware, signals)
        return run_rank(spec, folder, command, hardware, signals, last)


def _prepare(folder: Path, spec: CellSpec) -> None:
    remove_unfinished(folder)
    try:
        write_whole(folder / CONFIG_FILE, json.dumps(spec.plain(), indent=2, ensure_ascii=False))
    except UnwritableError as error:
        log.warning(f"{error}; the run continues without it.")
    # The result of an earlier start must not be mistaken for this one's.
    (folder / FILE).unlink(missing_ok=True)


def _run_ranks(spec: CellSpec, folder: Path, command: str, hardware: Hardware, signals: StopSignals) -> dict[str, Any]:
    """Runs the cell with one process per rank on this machine."""
    try:
        job = json.dumps({"config": spec.plain(), "command": command, "begun": signals.begun})
        launch_ranks(hardware.devices, signals, "lightning_modules.rank", folder, job)
    except (ConvzooError, RuntimeError, OSError) as error:
        # Report the error of the rank that failed first; rank 0 may have seen only that a peer was gone.
        result = read_result(folder) or _new_result(spec, command, hardware)
        if result["status"] == "completed":
            log.warning(f"{error} The result had been written before.")
            return result
        if result["status"] == "failed":
            _save(folder, result | {"error": str(error)})
        raise
    except SystemExit:
        if not read_result(folder):
            _save(folder, _new_result(spec, command, hardware) | {"status": "interrupted"})
            log.info(resume_hint(folder, command))
        raise
    return read_result(folder)


def run_rank(
    spec: CellSpec,
    folder: Path,
    command: str,
    hardware: Hardware,
    signals: StopSignals,
    last: Saved | None,
) -> dict[str, Any]:
    """Trains and tests one cell in this process, alone or as one rank of several; resumes from ``last`` if given."""
    be_quiet()
    main = global_rank() == 0
    result = _new_result(spec, command, hardware)
    loggers: list[Any] = []
    error: BaseException | None = None
    try:
        signals.install()
        signals.limit(seconds_of(spec.trainer.max_time))
        signals.look()
        cell = Cell(spec, folder, hardware, last)
        result |= {"cell": cell.choices, "environment": result["environment"] | cell.conditions}
        if main:
            loggers = make_loggers(spec, folder, cell.choices, cell.conditions["plan"], last is not None)
        result |= entries(loggers)
        metrics = time_cell(cell) if spec.task == "time" else cell.train(loggers, signals)
        result |= {"status": "completed", "metrics": metrics, "checkpoint": cell.checkpoint}
        result["environment"] |= cell.conditions
        signals.ignore()
    except BaseException as raised:  # a run ends with a result, whatever ended it
        signals.ignore()
        error = as_stop(raised, signals)
        result |= status(error)
    unsaved = _save(folder, result) if main else None
    if unsaved and error is None:
        error = ConvzooError(f"{unsaved}. Free some space and run the same command again.")
        result |= status(error)
    code = exit_code(error)
    if loggers:
        found = finish_loggers(loggers, Outcome(result["metrics"], result["status"], code, requeued(code)))
        if any(result[key] != value for key, value in found.items()):
            result |= found
            with suppress(OSError):
                write_result(folder, result)
    signals.restore()
    if isinstance(error, Stopped):
        log.info(f"interrupted: {error}. {resume_hint(folder, command)}")
        raise SystemExit(code)
    if error is not None:
        if torch.distributed.is_initialized():
            # Handlers run last in, first out: exit before Lightning tears down NCCL, which would wait for the other
            # ranks while they wait for this one.
            atexit.register(_leave, code)
        raise error
    return result


def _new_result(spec: CellSpec, command: str, hardware: Hardware) -> dict[str, Any]:
    return {
        "status": "failed",
        "id": cell_id(spec),
        "cell": columns(spec, hardware.name),
        "metrics": {},
        "environment": environment(),
        **UNTRACKED,
        "checkpoint": None,
        "command": command,
        "recipe": recipe(spec),
    }


def _save(folder: Path, result: dict[str, Any]) -> UnwritableError | None:
    """Writes the result and removes the checkpoints that a completed run no longer needs; returns why it failed."""
    completed = result["status"] == "completed"
    if completed:
        # Before the result, to make room for it on a full disk.
        with suppress(OSError):
            (folder / PREVIOUS).unlink(missing_ok=True)
    try:
        write_result(folder, result)
    except UnwritableError as error:
        log.error(f"{error}, so the result of this run is not saved.")
        return error
    if completed:
        with suppress(OSError):
            (folder / LAST).unlink(missing_ok=True)
    return None


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def be_quiet() -> None:
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
