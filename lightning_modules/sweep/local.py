"""Runs jobs on this machine: one fresh process each, as many at a time as fit. Nothing one does harms the others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.sweep.jobs import LOG, RESULT, Job, command
from zoo.errors import ConvzooError

GRACE_S = 20
"""Seconds that a job has to write its checkpoint and its result once it is told to stop."""

POLL_S = 0.1


@dataclass
class _Running:
    """A job that runs: as a child of ours, or (``process`` is None) left over by a launcher that died."""

    job: Job
    process: subprocess.Popen[bytes] | None
    gpus: list[str]


class LocalEngine:
    """Hands out this machine's cores and GPUs.

    Args:
        slots: Processes at a time; ``auto``: one a core.
        jobs_per_gpu: Jobs that share a GPU.
        stagger_s: Seconds between two starts: imports are hard on a disk.
        config_name: Hydra's, for the jobs' command lines.
        sweep: The sweep's name, W&B's group.
    """

    node_gpus = None

    def __init__(self, slots: int | str, jobs_per_gpu: int, stagger_s: float, config_name: str, sweep: str) -> None:
        self.cores = len(os.sched_getaffinity(0))
        for key, value in (("jobs", slots), ("jobs_per_gpu", jobs_per_gpu)):
            if not (key == "jobs" and value == "auto") and (type(value) is not int or value < 1):
                allowed = "auto, 1, 2, 3 …" if key == "jobs" else "1, 2, 3 …"
                raise ConvzooError(f"hydra.launcher.{key}={value} is not allowed. Allowed: {allowed}")
        self.slots = self.cores if slots == "auto" else slots
        self.gpus = gpus() * jobs_per_gpu
        self.stagger_s, self.config_name, self.sweep = stagger_s, config_name, sweep
        self.threads = max(1, self.cores // self.slots)
        self.stopping = False
        self._running: list[_Running] = []

    def at_once(self, jobs: Sequence[Job]) -> int:
        """How many of these run at a time, at most."""
        each = min((min(job.processes, self.slots) for job in jobs), default=1)
        wanted = min((job.gpus for job in jobs), default=0)
        fit = self.slots // each if not wanted else min(self.slots // each, len(self.gpus) // wanted)
        return max(1, min(fit, len(jobs)))

    @property
    def running(self) -> list[Job]:
        return [r.job for r in self._running]

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, int | None], None], tick: Callable[[], None]) -> None:
        """Runs the jobs to their end.

        Args:
            jobs: What to run.
            ended: Told of each job that ended, with its exit code (None: another launcher's). It may call `stop`.
            tick: Called ten times a second.
        """
        waiting = list(jobs)
        self.threads = max(1, self.cores // max(1, min(self.slots, sum(job.processes for job in waiting))))
        last_start = -self.stagger_s
        try:
            while self._running or (waiting and not self.stopping):
                if waiting and not self.stopping and time.monotonic() - last_start >= self.stagger_s:
                    job = next((job for job in waiting if self._fits(job)), None)
                    if job is not None:
                        waiting.remove(job)
                        self._start(job)
                        last_start = time.monotonic()
                for running in [r for r in self._running if self._has_ended(r)]:
                    self._running.remove(running)
                    ended(running.job, running.process.returncode if running.process else None)
                tick()
                time.sleep(POLL_S)
        except BaseException:
            self.stop(wait=True)
            raise

    def stop(self, wait: bool = False) -> None:
        """Starts no further job and asks those that run to write their checkpoint and end."""
        self.stopping = True
        for running in self._running:
            if running.process and running.process.poll() is None:
                running.process.send_signal(signal.SIGINT)
        if not wait:
            return
        deadline = time.monotonic() + GRACE_S
        # A second Ctrl-C is for those who do not want to wait.
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() < deadline and any(r.process and r.process.poll() is None for r in self._running):
                time.sleep(POLL_S)
        for running in self._running:
            if running.process and running.process.poll() is None:
                # Its own session: this takes the ranks of a distributed job with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()

    def _fits(self, job: Job) -> bool:
        used = sum(r.job.processes for r in self._running)
        # A job with more processes than slots runs alone.
        return (used == 0 or used + job.processes <= self.slots) and (not job.gpus or len(self._free(job.gpus)) > 0)

    def _free(self, number: int) -> list[str]:
        free = list(self.gpus)
        for taken in (gpu for r in self._running for gpu in r.gpus):
            free.remove(taken)
        different = list(dict.fromkeys(free))
        # The least used first: a GPU is shared only when all of them are busy.
        different.sort(key=lambda gpu: -free.count(gpu))
        return different[:number] if len(different) >= number else []

    def _start(self, job: Job) -> None:
        if job.status() == "running":
            self._running.append(_Running(job, None, []))
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / RESULT).unlink(missing_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "CONVZOO_SWEEP": self.sweep}
        mine = self._free(job.gpus) if job.gpus else []
        if mine:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        with (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command(job, self.config_name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # A Ctrl-C in the terminal is for the launcher, which passes it on once.
                start_new_session=True,
            )
        self._running.append(_Running(job, process, mine))

    @staticmethod
    def _has_ended(running: _Running) -> bool:
        return running.process.poll() is not None if running.process else running.job.status() != "running"


def gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES calls them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [v.strip() for v in visible.split(",") if v.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
