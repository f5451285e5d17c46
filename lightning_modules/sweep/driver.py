"""Run a sweep from its plan to its last job, on any engine; the entry point of this package."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning_modules.config.identity import recipe
from lightning_modules.config.schema import SweepOptions
from lightning_modules.hardware.signals import CODES, SIGNALS
from lightning_modules.results.lock import Lock
from lightning_modules.results.result import UNTRACKED, write_result
from lightning_modules.sweep.jobs import LOG, RESULT, Exit, Job, describe_exit, not_completed
from lightning_modules.sweep.plan import make_plan, need_one, write_plan
from lightning_modules.sweep.plan_view import show_plan
from lightning_modules.sweep.pool import Pool
from lightning_modules.sweep.progress import View, duration
from zoo.log import log
from zoo.text import typed

LOCK_FILE = "sweep.lock"


class Engine(Protocol):
    """Interface of the places where jobs run: this machine, Slurm, Ray.

    Attributes:
        node_gpus: GPUs per node; None if jobs run on this machine, whose hardware is then detected.
        threads: CPU threads per job.
        pool: Starts processes on this machine.
        running: Jobs that are running now.
        stopping: True once no further job starts.
    """

    node_gpus: int | None
    threads: int
    pool: Pool
    stopping: bool

    @property
    def running(self) -> list[Job]: ...

    def at_once(self, jobs: Sequence[Job]) -> int:
        """Return the maximum number of these jobs that run at a time."""

    def run(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Exit]]]:
        """Run the jobs until all have ended or `stop` is called.

        Yields:
            At least every half second, the jobs that have ended since, and how.
        """

    def stop(self) -> None:
        """Start no further jobs, and ask running jobs to save their checkpoint and exit."""


def run_sweep(
    jobs: Sequence[Job], engine: Engine, sweep: SweepOptions, folder: Path, command: str, search: bool = False
) -> None:
    """Plan and run a sweep: skip completed jobs, resume interrupted and failed ones.

    Args:
        jobs: All jobs of the sweep.
        engine: Where the jobs run.
        sweep: The sweep group of the configuration.
        folder: Folder for the sweep's files.
        command: The command line that repeats the sweep.
        search: True if the jobs are a batch of a search's trials. A search continues even if all of them are excluded.

    Raises:
        ConvzooError: A job has an invalid value (no job has started), or the sweep is already running.
        SystemExit: The sweep was stopped (130: Ctrl-C, 143: SIGTERM).
    """
    if sweep.plan:
        _plan(jobs, engine, sweep, search)
        show_plan(jobs, engine.at_once([job for job in jobs if job.runs]), folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / LOCK_FILE, "a sweep"):
        _plan(jobs, engine, sweep, search)
        write_plan(folder, command, jobs)
        todo = not_completed(jobs)
        log.info(summary(jobs, todo, engine.at_once(todo), folder))
        for job in jobs:
            if job.excluded:
                log.info(f"  {job.name}: left out: {job.excluded}")
        if todo:
            _run(todo, len([j for j in jobs if j.runs]) - len(todo), engine, sweep.fail_fast)


def _plan(jobs: Sequence[Job], engine: Engine, sweep: SweepOptions, search: bool) -> None:
    make_plan(jobs, sweep, engine.node_gpus, engine.threads, engine.pool)
    if not search:
        need_one(jobs)


def summary(jobs: Sequence[Job], todo: Sequence[Job], at_once: int, folder: Path) -> str:
    """Return a one-line summary of the sweep."""
    runs = [job for job in jobs if job.runs]
    parts = [f"{len(jobs)} jobs"]
    parts += [f"{n} done already"] if (n := len(runs) - len(todo)) else []
    parts += [f"{n} the same as another"] if (n := sum(job.same_as is not None for job in jobs)) else []
    parts += [f"{n} left out"] if (n := sum(job.excluded is not None for job in jobs)) else []
    return f"sweep: {', '.join(parts)}; {len(todo)} to run, up to {at_once} at a time, in {typed(folder)}"


def _run(todo: list[Job], done: int, engine: Engine, fail_fast: bool) -> None:
    def terminated(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        # Closed before the view: an engine that is interrupted waits for its jobs.
        with View(todo, done) as view, contextlib.closing(engine.run(todo)) as polls:
            for ended in polls:
                for job, how in ended:
                    result = _settle(job, how)
                    completed = result["status"] == "completed"
                    view.ended(job, completed)
                    view.say(_line(job, result), logging.INFO if completed else logging.WARNING)
                    if fail_fast and result["status"] == "failed" and not engine.stopping:
                        view.say("sweep.fail_fast: stopping the other jobs", logging.WARNING)
                        engine.stop()
                view.tick(engine.running)
    except (KeyboardInterrupt, SystemExit) as stopped:
        log.warning("sweep: stopped. The same command continues it.")
        raise SystemExit(stopped.code if isinstance(stopped, SystemExit) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _settle(job: Job, how: Exit) -> dict[str, Any]:
    """Return the result of a job that has ended, writing one if the job could not."""
    result = job.result()
    if "status" not in result:
        last = "" if isinstance(how, int) and how < 0 else "".join(job.last_words(1))
        # Stopped before it could write an "interrupted" result itself.
        stopped = isinstance(how, int) and (how in CODES or -how in SIGNALS)
        result = {
            "status": "interrupted" if stopped else "failed",
            "id": job.id,
            "cell": job.cell,
            "metrics": {},
            "environment": {},
            **UNTRACKED,
            "checkpoint": None,
            "command": job.reproduce,
            "recipe": recipe(job.spec),
            "error": describe_exit(how) + (f" ({last})" if last else ""),
        }
        # Keep an existing file: it is unreadable or belongs to another cell, which is why this job was refused.
        if not (job.folder / RESULT).exists():
            with contextlib.suppress(OSError):  # on a full disk the failure is only printed
                write_result(job.folder, result)
    return result


def _line(job: Job, result: dict[str, Any]) -> str:
    status = result["status"]
    accuracy, seconds = (result.get("metrics", {}).get(key) for key in ("test/acc", "time/fit_s"))
    if status == "completed":
        found = f"test acc {accuracy:.4f}" if accuracy is not None else "completed"
        return f"  {job.name}: {found}, {duration(seconds or 0)}"
    words = "\n".join(f"      {line}" for line in job.last_words())
    return f"  {job.name}: {status}: {result.get('error', '')}\n{words}\n      full log: {typed(job.folder / LOG)}"
