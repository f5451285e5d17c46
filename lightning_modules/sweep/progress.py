"""Show the progress of a running sweep: a live view in a terminal, one line per job elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightning_modules.sweep.jobs import Job
from zoo.log import log

REFRESH_S = 1.0


class View:
    """Live view of a sweep: jobs done, running jobs with progress and accuracy, time left.

    Without a terminal, only the messages passed to `say` appear, one per ended job.

    Args:
        jobs: Jobs to run in this start.
        done: Number of jobs that had completed before.
    """

    def __init__(self, jobs: Sequence[Job], done: int) -> None:
        self.jobs, self.done = list(jobs), done
        self.console = Console()
        self.start, self._drawn = time.monotonic(), 0.0
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        # Jobs that are resumed have done a share of their epochs already.
        self._before = {job.number: _share(job) for job in self.jobs}
        self._completed: dict[int, bool] = {}

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, message: str, level: int = logging.INFO) -> None:
        """Log a message above the view."""
        self._live.stop()
        log.log(level, message)
        self.__enter__()

    def ended(self, job: Job, completed: bool) -> None:
        self._completed[job.number] = completed

    def tick(self, running: Sequence[Job]) -> None:
        """Redraw the view at most once per second."""
        if self.console.is_terminal and time.monotonic() - self._drawn >= REFRESH_S:
            self._drawn = time.monotonic()
            self._live.update(self._draw(running), refresh=True)

    def _draw(self, running: Sequence[Job]) -> Group:
        rows = Table.grid(padding=(0, 2))
        for job in running:
            last = {} if not (epochs := job.epochs()) else epochs[-1]
            accuracy = f"val acc {last['val/acc']:.4f}" if last.get("val/acc") is not None else "starting"
            rows.add_row(f"  {job.name}", ProgressBar(1.0, _share(job), width=20), accuracy)
        completed = sum(self._completed.values())
        failed = len(self._completed) - completed
        waiting = len(self.jobs) - len(self._completed) - len(running)
        left = self.left_s(running)
        status = f"{self.done + completed} done, {len(running)} running, {waiting} waiting, {failed} failed"
        return Group(Text(status + (f", about {duration(left)} left" if left is not None else "")), rows)

    def left_s(self, running: Sequence[Job]) -> float | None:
        """Estimate the seconds left from the speed so far, weighting jobs by `weight_of`; None before any progress."""
        shares = {job.number: _share(job) for job in running} | dict.fromkeys(self._completed, 1.0)
        weight = {job.number: weight_of(job) for job in self.jobs}
        done = sum(weight[n] * max(0.0, share - self._before[n]) for n, share in shares.items())
        total = sum(weight[n] * (1 - self._before[n]) for n in weight)
        seconds = time.monotonic() - self.start
        return (total - done) * seconds / done if done > 0 else None


def weight_of(job: Job) -> float:
    """Return the relative work of a job: its estimated time, or else epochs times a sum of activations and MACs."""
    if job.estimate_s:
        return job.estimate_s
    epochs = max(1, job.spec.trainer.max_epochs)
    return epochs * (job.cost["cost/activations"] + job.cost["cost/macs"] / 50 if job.cost else 1)


def _share(job: Job) -> float:
    epochs = job.epochs()
    total = job.spec.trainer.max_epochs
    return min(1.0, (epochs[-1]["epoch"] + 1) / total) if epochs and total > 0 else 0.0


def duration(seconds: float) -> str:
    """Format seconds for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
