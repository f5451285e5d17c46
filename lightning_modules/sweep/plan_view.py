"""Print the plan of a sweep as a table, without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_modules.sweep.jobs import Job, not_completed
from lightning_modules.sweep.progress import duration
from zoo import render
from zoo.text import typed

HEADER = ("job", "params", "MACs", "time", "state")


def show_plan(jobs: Sequence[Job], at_once: int, folder: Path) -> None:
    """Print one row per job, then the number of jobs to run and their total time.

    Args:
        jobs: All jobs of the sweep.
        at_once: Maximum number of jobs at a time.
        folder: The sweep's folder.
    """
    rows = []
    for job in jobs:
        state = job.excluded and f"left out: {job.excluded}"
        state = state or (f"the same as #{job.same_as}" if job.same_as is not None else job.status())
        cost = job.cost or {}
        counts = [render.short(cost[key]) if key in cost else "–" for key in ("cost/params", "cost/macs")]
        time = f"~{duration(job.estimate_s)}" if job.estimate_s and job.runs else "–"
        rows.append([job.name, *counts, time, state])
    table = render.terminal(HEADER, rows, ("job", "state"))
    table.columns[-1].no_wrap = False
    render.console(200).print(table)
    todo = not_completed(jobs)
    left = sum(job.estimate_s or 0 for job in todo) / max(1, at_once)
    print(
        f"{len(todo)} of {len(jobs)} jobs would run, {at_once} at a time, in {typed(folder)}: about {duration(left)} "
        "(training steps were timed for one second each, one job at a time; jobs that run in parallel are slower)."
    )
