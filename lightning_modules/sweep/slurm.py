"""Submit a sweep's jobs to Slurm and follow them to their end.

This process may die at any time: the queue tells which jobs are alive, and the jobs' folders tell how they ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.sweep.jobs import Exit, Job, command
from lightning_modules.sweep.pool import Pool
from lightning_modules.sweep.slurm_options import SlurmOptions
from lightning_modules.sweep.slurm_queue import Queued, Shape, SlurmQueue
from lightning_modules.sweep.slurm_task import SlurmTask
from zoo.errors import ConvzooError
from zoo.log import log

LEFT_POLLS = 2
"""A job has ended if it is missing from this many polls of the queue in a row: shared file systems show files late."""

TICK_S = 0.5


class SlurmEngine:
    """Engine that runs jobs on a Slurm cluster, for `lightning_modules.sweep.driver`.

    Args:
        options: Options of the submission.
        folder: The sweep's folder, on a file system that all nodes share.

    Raises:
        ConvzooError: This machine has no Slurm, or submitit is not installed.
    """

    def __init__(self, options: SlurmOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.node_gpus: int | None = options.gpus_per_node
        self.threads = options.cpus_per_task or 1
        self.stopping, self.pool = False, Pool(False)
        self.queue = SlurmQueue(folder, options)
        self._left: list[Job] = []
        self._queued: dict[Path, Queued] = {}

    def at_once(self, jobs: Sequence[Job]) -> int:
        """Return the maximum number of these jobs that run at a time."""
        return min(self.options.at_once, len(jobs))

    @property
    def running(self) -> list[Job]:
        return [job for job in self._left if self._state(job) not in (None, "PENDING")]

    def run(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Exit]]]:
        """Submit the jobs that are not in the queue from an earlier start, and follow all of them to their end.

        Yields:
            At least twice per second, the jobs that have ended and, if they wrote no result, a description of how.

        Raises:
            ConvzooError: The queue cannot be read, so that jobs might be submitted twice; or sbatch refused a job.
        """
        queued = self.queue.queued()
        if queued is None:
            raise ConvzooError("squeue does not answer. Is Slurm's controller up? Nothing was submitted.")
        self._left, self._queued = list(jobs), queued
        new = [job for job in jobs if self._gone(job)]
        if found := len(jobs) - len(new):
            log.info(f"sweep: {found} jobs are in the queue from an earlier start")
        self.queue.submit([(self._task(job), _shape(job)) for job in new])
        missed = {job.number: 0 for job in jobs}
        while self._left:
            if (queued := self.queue.queued()) is not None:
                self._queued = queued
                for job in self._left:
                    missed[job.number] = missed[job.number] + 1 if self._gone(job) else 0
            ended: list[tuple[Job, Exit]] = []
            for job in list(self._left):
                gone = missed[job.number] >= LEFT_POLLS
                # A completed result is final; an interrupted job may be about to be requeued.
                if gone or job.result().get("status") == "completed":
                    self._left.remove(job)
                    ended.append((job, self.queue.why(job.folder) if gone and not job.result() else None))
            yield ended
            end = time.monotonic() + self.options.poll_s
            while self._left and time.monotonic() < end:
                time.sleep(min(TICK_S, self.options.poll_s))
                yield []

    def stop(self) -> None:
        """Cancel all jobs; running jobs save first."""
        self.stopping = True
        self.queue.cancel([job.folder for job in self._left])

    def _state(self, job: Job) -> str | None:
        queued = self._queued.get(job.folder.resolve())
        return queued.state if queued else None

    def _gone(self, job: Job) -> bool:
        return self._state(job) is None and job.status() != "running"

    def _task(self, job: Job) -> SlurmTask:
        environment = {"CONVZOO_SWEEP": self.folder.name}
        return SlurmTask(job.folder.resolve(), os.getcwd(), command(job), environment, job.id)


def _shape(job: Job) -> Shape:
    return Shape(job.nodes, job.processes // job.nodes, job.gpus > 0)
