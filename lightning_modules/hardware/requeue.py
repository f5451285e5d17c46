"""Slurm requeue: tells whether a stopped job will be started again. Imports neither torch nor Lightning."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress

ANSWER_S = 10.0
"""How long an ending run waits for scontrol, whose answer only sets a mark in W&B."""

TIME_IS_OVER = signal.SIGUSR2
"""The signal that Slurm sends before the time limit (``--signal``, set by submitit)."""

REQUEUES = "CONVZOO_REQUEUES"
"""Environment variable set for a child whose parent requeues stopped jobs."""


def requeued(code: int | None) -> bool:
    """Returns whether the parent task will requeue this job; called in the child.

    Args:
        code: The child's exit code: 128 + the number of the signal that stopped it.
    """
    if REQUEUES not in os.environ or (code or 0) <= 128:
        return False
    with suppress(OSError, subprocess.SubprocessError):
        return will_requeue([code - 128], ANSWER_S)
    return False


def will_requeue(received: Collection[int], timeout_s: float | None = None) -> bool:
    """Returns whether a job that received these signals is to be requeued: before its time limit, or if preempted."""
    return TIME_IS_OVER in received or (bool(received) and preempted(job_id(os.environ), timeout_s))


def preempted(job: str, timeout_s: float | None = None) -> bool:
    """Returns whether Slurm is preempting this job; a signal alone could come from ``scancel``."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, timeout=timeout_s
    )
    times = [word.partition("=")[2] for word in shown.stdout.split() if word.startswith("PreemptTime=")]
    return any(time not in ("None", "N/A", "Unknown") for time in times)


def job_id(environment: Mapping[str, str]) -> str:
    """Returns this job's id as squeue and scontrol show it: ``12_3`` for a task of an array."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment["SLURM_JOB_ID"]
