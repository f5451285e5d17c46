"""One job of a sweep, and how it stands. Needs neither torch nor Lightning."""

from __future__ import annotations

import json
import os
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


@dataclass
class Job:
    """One job: what it was given, where its files go, and what the plan says of it.

    Attributes:
        number: Its place in the sweep.
        overrides: What it was given on the command line.
        spec: Its cell.
        folder: Where its files go.
        words: What follows the program for this very configuration, in any working directory.
        reproduce: The command that a person types to run it by itself.
        label: Those of its overrides that tell it apart from the other jobs.
        same_as: Number of the job that runs in its place: the same network, the same recipe.
        excluded: Why it is not run.
        cell: Its choices, flat.
        cost: ``cost/params``, ``cost/macs``, ``cost/activations``.
        estimate_s: About how long it takes.
        processes: How many it consists of (devices × nodes).
        nodes: Machines it needs.
        gpus: GPUs it needs.
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
        """Whether it is a job of its own: neither excluded nor the same as another."""
        return self.excluded is None and self.same_as is None

    def result(self) -> dict[str, Any]:
        """Its ``result.json``; empty where there is none, or none that can be used, or another cell's."""
        return _result(self.folder, self.id)

    def status(self) -> str:
        """``completed``, ``failed``, ``interrupted``; without a result ``running``, ``lost`` or ``waiting``."""
        if is_locked(self.folder / LOCK):
            return "running"
        found = self.result().get("status")
        return found or ("lost" if (self.folder / LOG).exists() else "waiting")

    def epochs(self) -> list[dict[str, Any]]:
        """The epochs it has finished; a line that is being written is left out."""
        try:
            lines = (self.folder / EPOCHS).read_text().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                epoch = json.loads(line)
            except (ValueError, RecursionError):
                continue
            found += [epoch] if isinstance(epoch, dict) else []
        return found

    def last_words(self, lines: int = 5) -> list[str]:
        """The end of its log."""
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
    """Before a start: what an earlier one left behind must not be taken for this one's.

    Only where that failed or was interrupted. A result that has completed meanwhile, that is another cell's, or that
    cannot be used is for the run to judge, which has the folder for itself then.

    Args:
        folder: The job's.
        id: Its cell's.
    """
    if _result(folder, id).get("status") in ("failed", "interrupted"):
        (folder / RESULT).unlink(missing_ok=True)


def not_completed(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that should have completed and have not."""
    return [job for job in jobs if job.runs and job.status() != "completed"]


def command(job: Job) -> list[str]:
    """What runs a job in a process of its own."""
    return [sys.executable, os.path.abspath(sys.argv[0]), *job.words, f"hydra.run.dir={quoted(job.folder)}"]
