"""Run jobs on this machine, each in its own process, as many at a time as cores, memory and GPUs allow."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lightning_modules.hardware.oom_watch import OomWatch
from lightning_modules.sweep.jobs import LOG, Exit, Job, command, forget_failure
from lightning_modules.sweep.pool import Pool, Process
from lightning_modules.sweep.progress import weight_of
from lightning_modules.sweep.resources import Gpus, Memory, cores, find_gpus
from zoo.errors import ConvzooError

GRACE_S = 20
"""Seconds that a job has to save its checkpoint and result once it is asked to stop."""

POLL_S = 0.02


@dataclass
class _Running:
    """A running job: a child of this process or, if ``process`` is None, left over from a launcher that died."""

    job: Job
    process: Process | None
    gpus: list[str]
    threads: int
    watch: OomWatch = field(default_factory=OomWatch)

    @property
    def child(self) -> Process | None:
        """Its process if that is our child and still alive."""
        return self.process if self.process and self.process.poll() is None else None

    def ended(self) -> bool:
        return not self.child if self.process else self.job.status() != "running"

    def how(self) -> Exit:
        return self.watch.ending(self.process.returncode) if self.process else None


class LocalEngine:
    """Runs jobs on this machine and shares its cores, memory and GPUs among them.

    Args:
        slots: Maximum number of processes at a time. ``auto``: one per core with one thread each, which yields more
            images/s than fewer jobs with more threads. Jobs get more threads if there are fewer jobs than cores.
        jobs_per_gpu: Jobs that share a GPU; ``auto``: as many as fit into its memory.
        stagger_s: Seconds between two starts if jobs are not forked: each then imports everything from disk.
        sweep: The sweep's name, used as the W&B group.
        pool: Starts the jobs.

    Raises:
        ConvzooError: ``slots``, ``jobs_per_gpu`` or ``stagger_s`` is invalid.
    """

    node_gpus = None

    def __init__(self, slots: int | str, jobs_per_gpu: int | str, stagger_s: float, sweep: str, pool: Pool) -> None:
        for key, value in (("jobs", slots), ("jobs_per_gpu", jobs_per_gpu)):
            if value != "auto" and (type(value) is not int or value < 1):
                raise ConvzooError(f"hydra.launcher.{key}={value} is not allowed. Allowed: auto, 1, 2, 3 …")
        if type(stagger_s) not in (int, float) or not 0 <= stagger_s < math.inf:
            raise ConvzooError(f"hydra.launcher.stagger_s={stagger_s} is not allowed. Allowed: a number from 0")
        self.cores = cores()
        self.slots = self.cores if slots == "auto" else slots
        self.gpus, self.memory, self.pool = Gpus(jobs_per_gpu, find_gpus()), Memory(), pool
        self.stagger_s, self.sweep = stagger_s, sweep
        self.threads = max(1, self.cores // self.slots)
        self.stopping = False
        self._running: list[_Running] = []

    def at_once(self, jobs: Sequence[Job]) -> int:
        """Return the maximum number of these jobs that run at a time."""
        if jobs and all(map(_is_timed, jobs)):
            return 1
        each = min((min(job.processes, self.slots) for job in jobs), default=1)
        fit = self.slots // each
        if jobs and all(job.gpus for job in jobs):
            fit = min(fit, max(self.gpus.at_once(job, fit) for job in jobs))
        return max(1, min(fit, len(jobs)))

    @property
    def running(self) -> list[Job]:
        return [r.job for r in self._running]

    def run(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Exit]]]:
        """Run the jobs, the longest first: a long job that starts last would run alone.

        Yields:
            Many times per second, the jobs that have ended, and how (None: another launcher's job). If the caller stops
            iterating, the jobs are asked to save, and those still alive after ``GRACE_S`` seconds are killed.
        """
        waiting = sorted(jobs, key=weight_of, reverse=True)
        next_start = 0.0
        try:
            while self._running or (waiting and not self.stopping):
                ended: list[tuple[Job, Exit]] = []
                while waiting and not self.stopping and time.monotonic() >= next_start:
                    job = next((job for job in waiting if self._fits(job)), None)
                    if job is None:
                        break
                    waiting.remove(job)
                    try:
                        self._start(job, waiting)
                    except OSError as error:
                        # A full disk or a folder without write permission: other jobs may still start.
                        why = f"could not be started ({error.strerror or error}: {error.filename or job.folder})"
                        ended.append((job, why))
                        continue
                    next_start = 0.0 if self.pool.forks else time.monotonic() + self.stagger_s
                for running in [r for r in self._running if r.ended()]:
                    self._running.remove(running)
                    ended.append((running.job, running.how()))
                    self.memory.learn(running.job)
                self.pool.reap()
                yield ended
                time.sleep(POLL_S)
        finally:
            if self._running:
                self.stop()
                self._wait_and_kill()

    def stop(self) -> None:
        """Start no further jobs, and ask running jobs to save their checkpoint and exit."""
        self.stopping = True
        for running in self._running:
            if child := running.child:
                child.send_signal(signal.SIGINT)

    def _wait_and_kill(self) -> None:
        deadline = time.monotonic() + GRACE_S
        # A second Ctrl-C skips the wait.
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() < deadline and any(r.child for r in self._running):
                time.sleep(POLL_S)
        for running in self._running:
            if child := running.child:
                # Kill the process group, with all that the job has started there; ranks elsewhere notice its end.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def _fits(self, job: Job) -> bool:
        if not self._running:
            # A job that needs more slots or memory than exist runs alone.
            return True
        if any(_is_timed(j) for j in (job, *self.running)):
            return False
        used = sum(r.job.processes for r in self._running)
        children = {r.process.pid: r.job for r in self._running if r.process}
        return (
            used + job.processes <= self.slots
            and (not job.gpus or bool(self._gpus_for(job)))
            and self.memory.fits(job, children)
        )

    def _gpus_for(self, job: Job) -> list[str]:
        return self.gpus.pick(job, [(r.job, r.gpus) for r in self._running])

    def _threads_for(self, waiting: Sequence[Job]) -> int:
        """Return the threads per process for ``waiting[0]``: the free cores divided among the jobs that can start now.

        A job that measures speed gets all cores.
        """
        if _is_timed(waiting[0]):
            return max(1, self.cores // waiting[0].processes)
        free = self.cores - sum(r.threads * r.job.processes for r in self._running)
        slots = self.slots - sum(r.job.processes for r in self._running)
        can_run = min(slots, sum(job.processes for job in waiting))
        if waiting[0].gpus:
            running = sum(r.job.processes for r in self._running if r.job.gpus)
            room = max(1, self.gpus.at_once(waiting[0], self.slots) * waiting[0].processes - running)
            on_gpus = sum(job.processes for job in waiting if job.gpus)
            others = sum(job.processes for job in waiting if not job.gpus)
            can_run = min(slots, min(room, on_gpus) + others)
        return max(1, free // max(1, can_run))

    def _start(self, job: Job, waiting: Sequence[Job]) -> None:
        threads = self._threads_for([job, *waiting])
        if job.status() == "running":
            self._running.append(_Running(job, None, [], threads))
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        forget_failure(job.folder, job.id)
        ours = {"OMP_NUM_THREADS": str(threads), "CONVZOO_CORES": str(threads * job.processes)}
        environment = os.environ | ours | {"CONVZOO_SWEEP": self.sweep}
        mine = self._gpus_for(job) if job.gpus else []
        if mine:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        watch = OomWatch()
        with (job.folder / LOG).open("ab") as log, open(os.devnull, "rb") as nothing:
            process = self.pool.popen(command(job), environment, nothing, log, log)
        self._running.append(_Running(job, process, mine, threads, watch))


def _is_timed(job: Job) -> bool:
    """Whether the job measures speed, so that no other job may run beside it and distort its figures."""
    return job.spec.task == "time"
