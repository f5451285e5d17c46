"""Whether Slurm starts a stopped job again. Imports neither torch nor Lightning."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress

ANSWER_S = 10.0
"""How long a run that ends waits for what scontrol says: it is about a mark in W&B only."""

TIME_IS_OVER = signal.SIGUSR2
"""What Slurm sends (``--signal``, by submitit) before the time limit."""

REQUEUES = "CONVZOO_REQUEUES"
"""Set for the child: whoever started it puts a job that was stopped back into the queue."""


def requeued(code: int | None) -> bool:
    """Asked in the child: whether the task above it puts the job back into the queue.

    Args:
        code: The child's exit code, 128 and the number of the signal that stopped it.
    """
    if REQUEUES not in os.environ or (code or 0) <= 128:
        return False
    with suppress(OSError, subprocess.SubprocessError):
        return will_requeue([code - 128], ANSWER_S)
    return False


def will_requeue(received: Collection[int], timeout_s: float | None = None) -> bool:
    return TIME_IS_OVER in received or (bool(received) and preempted(job_id(os.environ), timeout_s))


def preempted(job: str, timeout_s: float | None = None) -> bool:
    """Whether Slurm stops this job to make room for another one. A signal alone could be ``scancel``'s."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, timeout=timeout_s
    )
    times = [word.partition("=")[2] for word in shown.stdout.split() if word.startswith("PreemptTime=")]
    return any(time not in ("None", "N/A", "Unknown") for time in times)


def job_id(environment: Mapping[str, str]) -> str:
    """The id that squeue and scontrol show for this job: ``12_3`` for a part of an array."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment["SLURM_JOB_ID"]
