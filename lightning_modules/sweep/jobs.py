"""Represent one job of a sweep and read its status; imports neither torch nor Lightning."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.config.values import quoted
from lightning_modules.results.result import EPOCHS, LOCK, read_result
from lightning_modules.results.result import FILE as RESULT
from zoo.report.lock_state import is_locked

LOG = "log.txt"

Exit = int | str | None
"""How a job's process ended: its exit code, or a description if more is known; None if nothing is."""


@dataclass
class Job:
    """One job of a sweep: its overrides, its folder, and what the plan found out about it.

    Attributes:
        number: Index in the sweep.
        overrides: Overrides on the command line.
        spec: The cell.
        folder: Folder for the job's files.
        words: Command-line arguments that reproduce exactly this configuration from any working directory.
        reproduce: The command line that runs this job alone.
        label: The overrides that distinguish it from the other jobs.
        same_as: Number of the job that runs in its place because network and recipe are the same; else None.
        excluded: Why it does not run; None if it does.
        cell: Its choices, flat.
        cost: ``cost/params``, ``cost/macs``, ``cost/activations``.
        estimate_s: Estimated duration in seconds.
        processes: Number of processes (devices × nodes).
        nodes: Number of nodes.
        gpus: Number of GPUs per node.
    """

    number: int
    overrides: list[str]
    spec: CellSpec
    folder: Path
    words: list[str] = field(default_factory=list)
    reproduce: str = ""
    label: str = ""
    same_as: int | None = None
    excluded: str | None = None
    cell: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, int] | None = None
    estimate_s: float | None = None
    processes: int = 1
    nodes: int = 1
    gpus: int = 0

    @cached_property
    def id(self) -> str:
        return cell_id(self.spec)

    @property
    def name(self) -> str:
        return f"#{self.number} {self.label or ' '.join(self.overrides)}"

    @property
    def runs(self) -> bool:
        """Whether the job itself runs: it is neither excluded nor the same as another job."""
        return self.excluded is None and self.same_as is None

    def result(self) -> dict[str, Any]:
        """Return its ``result.json``; empty if the file is missing, invalid or belongs to another cell."""
        return _result(self.folder, self.id)

    def status(self) -> str:
        """Return ``running``, ``completed``, ``failed`` or ``interrupted``; without a result ``lost`` or ``waiting``.

        ``lost``: the job has a log but no result. ``waiting``: it has neither.
        """
        if is_locked(self.folder / LOCK):
            return "running"
        found = self.result().get("status")
        return found or ("lost" if (self.folder / LOG).exists() else "waiting")

    def epochs(self) -> list[dict[str, Any]]:
        """Return the records of its finished epochs, skipping lines that are only partly written."""
        try:
            lines = (self.folder / EPOCHS).read_text().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                epoch = json.loads(line)
                found += [epoch] if isinstance(epoch, dict) else []
        return found

    def last_words(self, lines: int = 5) -> list[str]:
        """Return the last lines of its log."""
        try:
            return (self.folder / LOG).read_text(errors="replace").strip().splitlines()[-lines:]
        except OSError:
            return []


def _result(folder: Path, id: str) -> dict[str, Any]:
    try:
        result = read_result(folder)
    except ValueError:
        return {}
    return result if result.get("id", id) == id else {}


def forget_failure(folder: Path, id: str) -> None:
    """Delete the failed or interrupted result of an earlier start, so that it is not mistaken for this one's.

    Any other result stays: one that has completed in the meantime, belongs to another cell or is invalid. The run
    decides about these, once it holds the lock on the folder.

    Args:
        folder: The job's folder.
        id: The id of its cell.
    """
    if _result(folder, id).get("status") in ("failed", "interrupted"):
        (folder / RESULT).unlink(missing_ok=True)


def describe_exit(how: Exit) -> str:
    """Describe how a process ended."""
    if isinstance(how, int):
        return f"killed by {signal.Signals(-how).name}" if how < 0 else f"ended with exit code {how}"
    return how or "vanished"


def not_completed(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that run and have not completed yet."""
    return [job for job in jobs if job.runs and job.status() != "completed"]


def command(job: Job) -> list[str]:
    """Return the command that runs a job in its own process."""
    return [sys.executable, os.path.abspath(sys.argv[0]), *job.words, f"hydra.run.dir={quoted(job.folder)}"]
