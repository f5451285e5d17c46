"""Run one job of a sweep inside a Slurm allocation, and requeue it if the scheduler stopped it.

submitit pickles the task and unpickles it on the node, so this module imports neither torch nor Lightning.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lightning_modules.hardware.requeue import REQUEUES, TIME_IS_OVER, job_id, will_requeue
from lightning_modules.hardware.signals import TIME_OVER
from lightning_modules.sweep.jobs import LOG, describe_exit, forget_failure
from zoo.text import typed

END_FILE = "slurm.json"
"""File that records how a failed process ended: ``{"job", "node", "rank", "code"}``."""

LATE_S = 1.0
"""Maximum delay, in seconds, between the child and its parent receiving the same signal."""


@dataclass
class SlurmTask:
    """One process (rank) of a job; runs the same command as a sweep on one machine.

    Slurm signals both this process and its child. The child saves and exits; then this process requeues the job, which
    resumes in the same folder, after the time limit or preemption, but not after ``scancel``.

    Attributes:
        folder: The job's folder; rank 0 logs to ``log.txt`` in it, other ranks to ``log-rank1.txt`` ….
        directory: Working directory of the command.
        command: The command as a list of words.
        environment: Environment variables to add.
        id: The id of its cell.
    """

    folder: Path
    directory: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    id: str = ""

    def __call__(self) -> int:
        """Run the job.

        Returns:
            Its exit code: 0, or another one if a signal or the time limit stopped it.

        Raises:
            RuntimeError: The job failed by itself, so that Slurm marks it FAILED.
        """
        rank = int(os.environ.get("SLURM_PROCID", 0))
        received: list[int] = []

        def note(signum: int, frame: FrameType | None) -> None:
            received.append(signum)

        requeue = signal.getsignal(TIME_IS_OVER)  # submitit's: calls `checkpoint`, then scontrol requeue, then exits
        for signum in (signal.SIGTERM, TIME_IS_OVER):
            signal.signal(signum, note)
        if rank == 0:
            forget_failure(self.folder, self.id)
            (self.folder / END_FILE).unlink(missing_ok=True)
        with (self.folder / (f"log-rank{rank}.txt" if rank else LOG)).open("ab") as log:
            child = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=rank_environment(os.environ | self.environment | {REQUEUES: "1"}),
            )
            code = child.wait()
        if code and not received:
            time.sleep(LATE_S)
        if code and will_requeue(received):
            requeue(TIME_IS_OVER, None)
        elif code not in (0, TIME_OVER) and not received:
            end = {"job": job_id(os.environ), "node": socket.gethostname(), "rank": rank, "code": code}
            (self.folder / END_FILE).write_text(json.dumps(end) + "\n")
            raise RuntimeError(f"rank {rank} {describe_exit(code)}; its output is in {typed(self.folder)}")
        return code

    def checkpoint(self) -> object:
        """Return the task to run when the job is requeued; part of submitit's protocol."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a rank: srun's, with rank 0's address and as many threads as the rank has CPUs."""
    own = dict(environment)
    # srun runs on the first node, as rank 0 does. Use its IP address: its name may not resolve on every node.
    if address := own.get("SLURM_LAUNCH_NODE_IPADDR"):
        own.setdefault("MASTER_ADDR", address)
    if cpus := own.get("SLURM_CPUS_PER_TASK"):
        own["OMP_NUM_THREADS"] = cpus
    return own
