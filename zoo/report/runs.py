"""Finds and reads all runs in or below some folders, finished or not, even if their files are damaged."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError, reason
from zoo.report.checksum import check_checksum
from zoo.report.files import UnreadableError, Value, flat, numbers, read_epochs, read_object, text
from zoo.report.lock_state import is_locked
from zoo.text import clean

STATUSES = {
    "completed": "trained and tested",
    "running": "at work now",
    "waiting": "planned and not yet started",
    "failed": "ended with an error",
    "interrupted": "was stopped; the same command continues it",
    "lost": "started, and ended without a result",
    "unreadable": "has a result that cannot be read",
    "excluded": "left out by a rule of the sweep",
}
"""Status of a run → its meaning."""


@dataclass(frozen=True)
class Run:
    """One run or job.

    Attributes:
        folder: Where its files are (or will be).
        status: One of `STATUSES`.
        cell: Its choices, as a flat dict.
        recipe: Everything else that affects the result (data, optimiser, trainer); None if unknown.
        metrics: Its metrics; finite numbers only.
        environment: Hardware and software that it ran on.
        plugins: The user's modules that it needed → hash of their source.
        command: The command that reproduces it.
        error: Why it did not complete, or why it is excluded.
        number: Number of the job in its sweep.
        same_as: Folder of the run trained in its place, because it has the same network and recipe.
        problems: Defects of its files that did not prevent reading them.
    """

    folder: str
    status: str
    cell: dict[str, Value] = field(default_factory=dict)
    recipe: dict[str, Value] | None = None
    metrics: dict[str, int | float] = field(default_factory=dict)
    environment: dict[str, Value] = field(default_factory=dict)
    plugins: dict[str, Value] = field(default_factory=dict)
    command: str | None = None
    error: str | None = None
    number: int | None = None
    same_as: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def seed(self) -> Value | None:
        return self.cell.get("seed")

    def epochs(self) -> tuple[list[dict[str, float]], str | None]:
        """Reads its finished epochs, and what is wrong with their file (see `read_epochs`)."""
        return read_epochs(self.same_as or self.folder)


def load_results(folders: Iterable[str | Path]) -> list[Run]:
    """Reads all runs in or below the folders: each ``result.json``, and each job of a ``sweep.json`` without one.

    A file that cannot be used becomes a run with the status ``unreadable`` and the reason; the others are still read.

    Raises:
        ConvzooError: A folder cannot be read, or there is no run in any of them.
    """
    given = [str(folder) for folder in folders]
    # By folder and number: a folder may be given twice, and several jobs may have no folder of their own.
    runs: dict[tuple[str, int | None], Run] = {}
    results: list[Path] = []
    for folder in given:
        try:
            os.scandir(folder).close()
        except (OSError, ValueError) as error:  # ValueError: the name holds a zero byte
            raise ConvzooError(f"{clean(folder, 200)} cannot be read: {reason(error)}.") from None
        for where, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if name[0] != "." and name not in ("wandb", "__pycache__"))
            if "sweep.json" in files:
                for run in _read_sweep(Path(where)):
                    runs.setdefault((os.path.realpath(run.folder), run.number), run)
            if "result.json" in files:
                results.append(Path(where))
    planned = {where for where, _ in runs}
    for path in results:
        if (real := os.path.realpath(path)) not in planned:
            runs.setdefault((real, None), read_run(path))
    if not runs:
        raise ConvzooError(f"no result.json and no sweep.json in or below {', '.join(given)}.")
    return list(runs.values())


def read_run(folder: Path) -> Run:
    """Reads the run whose ``result.json`` is in a folder; if it cannot be used, ``unreadable`` with the reason."""
    try:
        result = check_checksum(read_object(folder / "result.json"))
    except ValueError as error:
        return Run(clean(folder), "unreadable", error=f"result.json {error}")
    metrics, problems = numbers(result.get("metrics"), "metrics")
    status, why = result.get("status"), result.get("error")
    if not isinstance(status, str) or status not in STATUSES:
        status, why = "unreadable", f"result.json has the status {clean(status, 80)}"
    environment = result.get("environment")
    return Run(
        folder=clean(folder),
        status=status,
        cell=flat(result.get("cell")),
        recipe=flat(result.get("recipe")) or None,
        metrics=metrics,
        environment=flat(environment),
        plugins=flat(environment.get("plugins")) if isinstance(environment, dict) else {},
        command=text(result.get("command")),
        error=None if why is None else clean(why),
        problems=problems,
    )


def _read_sweep(folder: Path) -> Iterator[Run]:
    """Yields all jobs of a sweep, in any status, from its ``sweep.json`` and the files of each job."""
    try:
        jobs = read_object(folder / "sweep.json").get("jobs")
        if not isinstance(jobs, list):
            raise UnreadableError("has no list of jobs")
    except UnreadableError as error:
        yield Run(clean(folder), "unreadable", error=f"sweep.json {error}")
        return
    runs: dict[int | None, Run] = {}
    copies = []
    for position, job in enumerate(jobs):
        if not isinstance(job, dict):
            why = f"sweep.json: job {position} is not an object"
            yield Run(clean(folder), "unreadable", number=position, error=why)
            continue
        planned = _planned(folder, job, position)
        if type(job.get("same_as")) is int:
            copies.append((planned, job["same_as"]))
        else:
            runs[planned.number] = _job(folder, job, planned)
    yield from runs.values()
    for planned, number in copies:
        if (original := runs.get(number)) is None:
            yield replace(planned, status="unreadable", error=f"sweep.json: there is no job {number}")
        else:
            run = replace(original, same_as=original.folder, command=planned.command, number=planned.number)
            yield replace(run, cell=planned.cell or original.cell)


def _planned(sweep: Path, job: dict[str, Any], position: int) -> Run:
    """Returns a job as described in sweep.json, with the status ``waiting``."""
    number = job["number"] if type(job.get("number")) is int else position
    name, overrides, command = job.get("folder"), job.get("overrides"), job.get("command")
    if not command and isinstance(overrides, list) and overrides:
        command = shlex.join(["python", "train.py", *map(clean, overrides)])
    cost, problems = numbers(job.get("cost"), f"sweep.json: cost of job {number}")
    return Run(
        folder=clean(sweep / name) if isinstance(name, str) else clean(sweep),
        status="waiting",
        cell=flat(job.get("cell")),
        recipe=flat(job.get("recipe")) or None,
        metrics=cost,
        command=text(command),
        number=number,
        problems=problems,
    )


def _job(sweep: Path, job: dict[str, Any], planned: Run) -> Run:
    """Returns a job in the status that its own files show."""
    name = job.get("folder")
    if job.get("excluded") is not None:
        return replace(planned, status="excluded", error=clean(job["excluded"]))
    if not isinstance(name, str) or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        why = f"sweep.json: job {planned.number} has no folder below the sweep"
        return replace(planned, status="unreadable", error=why)
    folder = sweep / name
    if not folder.is_dir():
        return planned
    locked = is_locked(folder / "job.lock")
    if not (folder / "result.json").exists():
        return replace(planned, status="running" if locked else "lost")
    run = read_run(folder)
    return replace(
        run,
        status="running" if locked and run.status != "completed" else run.status,
        cell=run.cell or planned.cell,
        recipe=run.recipe or planned.recipe,
        metrics=planned.metrics | run.metrics,
        command=run.command or planned.command,
        number=planned.number,
        problems=planned.problems + run.problems,
    )
