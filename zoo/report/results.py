"""Finds the runs in or below some folders, finished or not, and reads what each left behind."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError
from zoo.report.files import UnreadableError, as_number, clean, is_locked, read_epochs, read_object

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
"""What a run can be, and what that means."""
SKIPPED = ("wandb", "__pycache__")

Value = str | int | float


@dataclass(frozen=True)
class Run:
    """One run or job.

    Attributes:
        folder: Where its files are (or will be).
        status: One of `STATUSES`.
        cell: Its choices, flat.
        recipe: What else influences the result (data, optimiser, trainer); None where nothing says.
        metrics: Finite numbers only.
        environment: Where it ran.
        command: What reproduces it.
        error: Why it did not complete, or why it is excluded.
        number: Of the job in its sweep.
        same_as: Folder of the run that was trained in its place, because it is the same network with the same recipe.
        problems: What was wrong with its files, though it could be read.
    """

    folder: str
    status: str
    cell: dict[str, Value] = field(default_factory=dict)
    recipe: dict[str, Value] | None = None
    metrics: dict[str, int | float] = field(default_factory=dict)
    environment: dict[str, Value] = field(default_factory=dict)
    command: str | None = None
    error: str | None = None
    number: int | None = None
    same_as: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def seed(self) -> Value | None:
        return self.cell.get("seed")

    def epochs(self) -> tuple[list[dict[str, float]], str | None]:
        """Its finished epochs (see `read_epochs`), and what is wrong with their file."""
        return read_epochs(self.same_as or self.folder)


def load_results(folders: Iterable[str | Path]) -> list[Run]:
    """Reads every run in or below the folders: each ``result.json``, and each job of a ``sweep.json`` without one.

    A file that cannot be used becomes a run that is ``unreadable`` and says why; none stops the others.

    Raises:
        ConvzooError: A folder that does not exist, or no run in any of them.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConvzooError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}.")
    # By folder and number: a folder may be given twice, and several jobs may have none of their own.
    runs: dict[tuple[str, int | None], Run] = {}
    results: list[Path] = []
    for folder in folders:
        sweeps, found = _find(folder)
        results += found
        for sweep in sweeps:
            for run in _sweep(sweep):
                runs.setdefault((os.path.realpath(run.folder), run.number), run)
    planned = {where for where, _ in runs}
    for folder in results:
        if (where := os.path.realpath(folder)) not in planned:
            runs.setdefault((where, None), _run(folder))
    if not runs:
        raise ConvzooError("no result.json and no sweep.json in or below " + ", ".join(map(str, folders)) + ".")
    return list(runs.values())


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders with a sweep.json, and folders with a result.json."""
    sweeps, results = [], []
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in SKIPPED)
        if "sweep.json" in files:
            sweeps.append(Path(where))
        if "result.json" in files:
            results.append(Path(where))
    return sweeps, results


def _sweep(folder: Path) -> Iterator[Run]:
    """The jobs of a sweep, whatever became of them."""
    try:
        jobs = read_object(folder / "sweep.json").get("jobs")
        if not isinstance(jobs, list):
            raise UnreadableError("has no list of jobs")
    except UnreadableError as error:
        yield Run(clean(folder), "unreadable", error=f"sweep.json {error}")
        return
    runs: dict[Any, Run] = {}
    copies = []
    for position, job in enumerate(jobs):
        if not isinstance(job, dict):
            yield Run(clean(folder), "unreadable", number=position, error=f"sweep.json: job {position} is no object")
            continue
        number = job.get("number") if type(job.get("number")) is int else position
        if type(job.get("same_as")) is int:
            copies.append((number, job))
        else:
            runs[number] = _job(folder, number, job)
    yield from runs.values()
    for number, job in copies:
        planned, original = _planned(folder, number, job), runs.get(job["same_as"])
        if original is None:
            yield replace(planned, status="unreadable", error=f"sweep.json: there is no job {job['same_as']}")
        else:
            yield replace(
                original,
                cell=planned.cell or original.cell,
                command=planned.command,
                number=number,
                same_as=original.folder,
            )


def _planned(sweep: Path, number: int, job: dict[str, Any]) -> Run:
    """A job as its sweep.json describes it."""
    name = job.get("folder")
    overrides = job.get("overrides")
    texts = [clean(o) for o in overrides] if isinstance(overrides, list) else []
    cost, problems = _numbers(job.get("cost"), f"sweep.json: cost of job {number}")
    return Run(
        folder=clean(sweep / name) if isinstance(name, str) else clean(sweep),
        status="waiting",
        cell=_flat(job.get("cell")),
        recipe=_flat(job.get("recipe")) or None,
        metrics=cost,
        command=shlex.join(["python", "train.py", *texts]) if texts else None,
        number=number,
        problems=problems,
    )


def _job(sweep: Path, number: int, job: dict[str, Any]) -> Run:
    planned, name = _planned(sweep, number, job), job.get("folder")
    if job.get("excluded") is not None:
        return replace(planned, status="excluded", error=clean(job["excluded"]))
    if not isinstance(name, str) or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        return replace(planned, status="unreadable", error=f"sweep.json: job {number} has no folder below the sweep")
    folder = sweep / name
    if not folder.is_dir():
        return planned
    locked = is_locked(folder / "job.lock")
    if not (folder / "result.json").exists():
        return replace(planned, status="running" if locked else "lost")
    run = _run(folder)
    return replace(
        run,
        status="running" if locked and run.status != "completed" else run.status,
        cell=run.cell or planned.cell,
        recipe=run.recipe or planned.recipe,
        metrics=planned.metrics | run.metrics,
        command=run.command or planned.command,
        number=number,
        problems=planned.problems + run.problems,
    )


def _run(folder: Path) -> Run:
    try:
        result = read_object(folder / "result.json")
    except UnreadableError as error:
        return Run(clean(folder), "unreadable", error=f"result.json {error}")
    metrics, problems = _numbers(result.get("metrics"), "metrics")
    status, error = result.get("status"), result.get("error")
    if not isinstance(status, str) or status not in STATUSES:
        status, error = "unreadable", f"result.json has the status {clean(status, 80)}"
    environment = result.get("environment")
    command = result.get("command")
    return Run(
        folder=clean(folder),
        status=status,
        cell=_flat(result.get("cell")),
        recipe=_flat(result.get("recipe")) or None,
        metrics=metrics,
        environment=_flat(environment) if isinstance(environment, dict) else {},
        command=clean(command) if isinstance(command, str) else None,
        error=clean(error) if error is not None else None,
        problems=problems,
    )


def _flat(values: Any) -> dict[str, Value]:
    """Choices as texts and finite numbers; what is None is left out."""
    flat: dict[str, Value] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if value is not None:
            number = as_number(value)
            text = str(value).lower() if isinstance(value, bool) else value
            flat[clean(key, 80)] = number if number is not None else clean(text, 200)
    return flat


def _numbers(values: Any, what: str) -> tuple[dict[str, int | float], tuple[str, ...]]:
    """The finite numbers of a dict, and what is no number. None (a NaN when it was written) is neither."""
    if values is None:
        return {}, ()
    if not isinstance(values, dict):
        return {}, (f"{what} is a {type(values).__name__}, not an object",)
    numbers = {clean(k, 80): n for k, v in values.items() if (n := as_number(v)) is not None}
    wrong = [k for k, v in values.items() if v is not None and as_number(v) is None]
    return numbers, tuple(
        f"{what}: {clean(k, 80)} is {clean(repr(values[k]), 80)}, not a number to compute with" for k in wrong
    )
