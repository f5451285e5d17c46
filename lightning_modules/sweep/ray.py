"""Run single-device jobs on a Ray cluster, one Ray task per job.

Ray's queue and its jobs die with this process; running the same command again resumes them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.hardware.oom_watch import OomWatch
from lightning_modules.sweep.jobs import LOG, Exit, Job, command, forget_failure
from lightning_modules.sweep.pool import Pool
from lightning_modules.tracking.wandb_environment import passed
from zoo.errors import ConvzooError

POLL_S = 0.5

STOP_FILE = "ray.stop"
"""File in the sweep's folder that asks jobs to save and exit. Ray's own cancellation does not reach a task's child."""

GRACE_S = 20
"""Seconds that jobs have to save and exit."""


class RayEngine:
    """Engine that runs jobs on a Ray cluster, for `lightning_modules.sweep.driver`.

    Args:
        address: Address of the cluster; ``local`` starts one on this machine, ``auto`` finds the one announced by
            RAY_ADDRESS or ``ray start``.
        cpus: CPUs and threads per job.
        gpus_per_node: GPUs per node.
        jobs: Maximum number of jobs at a time; None for as many as fit.
        folder: The sweep's folder, on a file system that all nodes share.

    Raises:
        ConvzooError: Ray is not installed.
    """

    def __init__(self, address: str, cpus: int, gpus_per_node: int, jobs: int | None, folder: Path) -> None:
        try:
            import ray
        except ImportError:
            raise ConvzooError('hydra/launcher=ray needs Ray. Type: pip install "convzoo[ray]"') from None
        self.ray, self.address, self.jobs = ray, address, jobs
        self.node_gpus: int | None = gpus_per_node
        self.threads, self.folder = cpus, folder
        self.stopping, self.pool = False, Pool(False)
        self._tasks: dict[Any, Job] = {}

    def at_once(self, jobs: Sequence[Job]) -> int:
        """Return the maximum number of these jobs at a time; the cluster may fit fewer."""
        return min(self.jobs or len(jobs), len(jobs))

    @property
    def running(self) -> list[Job]:
        return [job for job in self._tasks.values() if job.status() == "running"]

    def run(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Exit]]]:
        """Run the jobs.

        Yields:
            Twice per second, the jobs that have ended, and how. If the caller stops iterating, running jobs have
            ``GRACE_S`` seconds to save and exit.

        Raises:
            ConvzooError: A job has several processes, or there is no cluster at the address.
        """
        if several := next((job for job in jobs if job.processes > 1), None):
            raise ConvzooError(
                f"{several.name} has {several.processes} processes, and hydra/launcher=ray runs jobs of one device. "
                "Type hydra/launcher=slurm or hydra/launcher=local instead."
            )
        self._connect()
        waiting = list(jobs)
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        try:
            while self._tasks or (waiting and not self.stopping):
                while waiting and not self.stopping and len(self._tasks) < self.at_once(jobs):
                    job = waiting.pop(0)
                    self._tasks[self._start(job)] = job
                done, _ = self.ray.wait(list(self._tasks), timeout=POLL_S)
                yield [(self._tasks.pop(task), self._outcome(task)) for task in done]
        finally:
            if self._tasks:
                self.stop()
                self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=GRACE_S)
            self.ray.shutdown()

    def stop(self) -> None:
        """Start no further jobs, and ask running jobs to save and exit."""
        self.stopping = True
        (self.folder / STOP_FILE).touch()

    def _connect(self) -> None:
        # Workers import this module from the same path as this process.
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(
                self.address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConvzooError(f"hydra.launcher.address={self.address}: {str(error).splitlines()[0]}") from None
        # Restore ours: Ray's own handler would abort the process.
        signal.signal(signal.SIGTERM, terminated)

    def _start(self, job: Job) -> Any:
        job.folder.mkdir(parents=True, exist_ok=True)
        forget_failure(job.folder, job.id)
        threads = str(self.threads)
        variables = {"OMP_NUM_THREADS": threads, "CONVZOO_CORES": threads, "CONVZOO_SWEEP": self.folder.name}
        # If a node disappears, Ray retries the job on another one, where it resumes from its checkpoint.
        options = {"num_cpus": self.threads, "num_gpus": job.gpus, "max_retries": 5}
        stop = str((self.folder / STOP_FILE).resolve())
        words, log = command(job), str((job.folder / LOG).resolve())
        return self.ray.remote(_run).options(**options).remote(words, os.getcwd(), log, stop, variables | passed())

    def _outcome(self, task: Any) -> int | str:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[0]


def _run(words: list[str], directory: str, log: str, stop: str, variables: dict[str, str]) -> int | str:
    """Run a job's command on a node, terminating it when the file ``stop`` appears.

    Returns:
        The exit code, or a description if the kernel killed the process.
    """
    if os.path.exists(stop):
        return 128 + signal.SIGTERM
    watch = OomWatch()
    with open(log, "ab") as out:
        child = subprocess.Popen(
            words,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            start_new_session=True,
        )
        stopping = False
        while child.poll() is None:
            if not stopping and (stopping := os.path.exists(stop)):
                child.terminate()  # Ray blocks SIGINT in all of its children
            time.sleep(POLL_S)
        return watch.ending(child.returncode)
