"""What a user may say about jobs on Slurm: ``hydra.launcher.KEY=VALUE`` with ``hydra/launcher=slurm``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SlurmOptions:
    """How jobs are submitted.

    Attributes:
        gpus_per_node: GPUs of a node, all of which ``hardware=ddp`` takes; 0 for a cluster without.
        at_once: Jobs of an array that may run at the same time.
        timeout_min: Time limit of a job, in minutes. A job that reaches it goes on where it was.
        requeues: How often at most.
        signal_delay_s: How long before the time limit a job is told to save, in seconds.
        cpus_per_task: CPUs of a process (one a device); it has as many threads.
        mem_gb: Memory of a node that a job gets.
        partition, account, qos, constraint: sbatch's.
        extra: Other parameters of sbatch, by their long names.
        setup: Shell lines before each job, such as ``module load``.
        poll_s: Seconds between two looks at the queue.
    """

    gpus_per_node: int = 0
    at_once: int = 50
    timeout_min: int = 60
    requeues: int = 50
    signal_delay_s: int = 120
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    poll_s: float = 5.0
