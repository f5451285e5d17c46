"""Reads the jobs of a sweep, from its ``sweep.json`` and the files of each job."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.report.files import UnreadableError, read_object
from zoo.report.lock_state import is_locked
from zoo.report.runs import Run, flat, numbers, read_run
from zoo.text import clean


def read_sweep(folder: Path) -> Iterator[Run]:
    """Yields all jobs of a sweep, in any status."""
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
    """Returns a job as described in sweep.json, with the status ``waiting``."""
    name = job.get("folder")
    overrides = job.get("overrides")
    texts = [clean(o) for o in overrides] if isinstance(overrides, list) else []
    command = job.get("command") or (shlex.join(["python", "train.py", *texts]) if texts else None)
    cost, problems = numbers(job.get("cost"), f"sweep.json: cost of job {number}")
    return Run(
        folder=clean(sweep / name) if isinstance(name, str) else clean(sweep),
        status="waiting",
        cell=flat(job.get("cell")),
        recipe=flat(job.get("recipe")) or None,
        metrics=cost,
        command=clean(command) if isinstance(command, str) else None,
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
    run = read_run(folder)
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
