"""What Slurm runs: one job of a sweep in a child process, put back into the queue where the scheduler stopped it.

Pickled by submitit on the way to the node, so this module imports neither torch nor Lightning.
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
from lightning_modules.sweep.jobs import forget_failure
from zoo.text import typed

END_FILE = "slurm.json"
"""How a process of the job ended that wrote no result: ``{"job", "node", "rank", "code"}``."""

LATE_S = 1.0
"""How much later than its child the parent may hear of the same signal."""


@dataclass
class SlurmTask:
    """One process (rank) of a job: the very command that a sweep on one machine runs.

    Slurm signals it and its child alike. The child saves and ends; then this process decides: the time limit and
    preemption put the job back into the queue, from where it goes on in the same folder; ``scancel`` does not.

    Attributes:
        folder: The job's folder; ``log.txt`` in it takes the output (of rank 0; the others have ``log-rank1.txt`` …).
        directory: Where the command runs.
        command: What to run, as a list of words.
        environment: Variables to add.
        id: Its cell's.
    """

    folder: Path
    directory: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    id: str = ""

    def __call__(self) -> int:
        """Runs the job.

        Returns:
            Its exit code, where something stopped it.

        Raises:
            RuntimeError: It failed by itself; Slurm then says FAILED.
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
        with (self.folder / (f"log-rank{rank}.txt" if rank else "log.txt")).open("ab") as log:
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
            raise RuntimeError(f"rank {rank} {ending(code)}; its output is in {typed(self.folder)}")
        return code

    def checkpoint(self) -> object:
        """Part of submitit's protocol: what to run when the job starts again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def ending(code: int) -> str:
    """How a process with this exit code ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a rank needs beside what srun gives it: where rank 0 is, and as many threads as it has CPUs."""
    own = dict(environment)
    # The batch script, and with it srun, runs on the first node, as rank 0 does. Its name may not resolve everywhere.
    if address := own.get("SLURM_LAUNCH_NODE_IPADDR"):
        own.setdefault("MASTER_ADDR", address)
    if cpus := own.get("SLURM_CPUS_PER_TASK"):
        own["OMP_NUM_THREADS"] = cpus
    return own
