"""Define the Slurm launcher's options: ``hydra.launcher.KEY=VALUE`` with ``hydra/launcher=slurm``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SlurmOptions:
    """Options for submitting jobs to Slurm.

    Attributes:
        gpus_per_node: GPUs per node, all of which ``hardware=ddp`` uses; 0 for a cluster without GPUs.
        at_once: Maximum number of jobs of an array that run at the same time.
        timeout_min: Time limit of a job in minutes. A job that reaches it is requeued and resumes.
        requeues: Maximum number of requeues after the time limit.
        signal_delay_s: Seconds before the time limit at which a job is signalled to save.
        cpus_per_task: CPUs and threads per process (one process per device).
        mem_gb: Memory of a job on each node, in GiB.
        partition: sbatch's ``--partition``.
        account: sbatch's ``--account``.
        qos: sbatch's ``--qos``.
        constraint: sbatch's ``--constraint``.
        extra: Further sbatch options, by their long names.
        setup: Shell lines to run before each job, such as ``module load``.
        poll_s: Seconds between two polls of the queue.
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
