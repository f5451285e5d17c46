"""This process's place in a distributed job, from the environment that torchrun or srun sets. Imports no torch."""

from __future__ import annotations

import os


def processes() -> int:
    """Returns the number of processes that the launcher started, which may be below the size of the allocation."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))


def inside_a_rank() -> bool:
    """Returns whether an external launcher (torchrun, srun) started this process as one of several ranks."""
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or processes() > 1


def global_rank() -> int:
    """Returns the rank of this process in its job; 0 for a single process."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) if inside_a_rank() else 0
