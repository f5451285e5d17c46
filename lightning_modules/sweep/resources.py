"""Find this machine's cores, memory and GPUs, and estimate what a job needs of them; imports no torch."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_modules.sweep.jobs import Job
from zoo import devices

MIB = 1 << 20
PYTHON_BYTES = 700 * MIB
"""Memory of a CPU job for Python and its libraries; raised by the measured peaks of jobs that have ended."""

CUDA_BYTES = 1200 * MIB
"""GPU memory of a GPU job for the CUDA context and the workspaces of cuDNN and cuBLAS."""

PARAMETER_BYTES = 20
"""Per parameter: weight, gradient, two optimizer moments and a copy for the best checkpoint, 4 bytes each."""

ACTIVATION_BYTES = 16
"""Per activation (output element of a convolution) and image.

The backward pass keeps the outputs of convolution, normalization and activation function, 4 bytes each, and needs 4
more bytes itself.
"""

SHARED_AT_MOST = 8
"""Maximum number of jobs that share a GPU: more would wait for each other's kernel launches."""

GPU_SHARE = 0.8
"""Usable share of a GPU's free memory: estimates are inexact, and the allocator fragments memory."""


def tensor_bytes(job: Job) -> int:
    """Estimate the bytes of float32 tensors that one process of a job holds during training."""
    cost, images = job.cost or {}, job.spec.data.batch_size / job.processes
    activations = ACTIVATION_BYTES * images * cost.get("cost/activations", 0)
    return int(PARAMETER_BYTES * cost.get("cost/params", 0) + activations)


def cores() -> int:
    """Return the number of CPU cores this process may use: its affinity, limited by the container's quota."""
    bound = devices.cores()
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return min(bound, max(1, math.ceil(int(quota) / int(period)))) if quota.isdigit() else bound


def free_bytes() -> int | None:
    """Return the memory available in this container and on this machine, in bytes; None if unknown."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    found = [int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"]
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        stat = dict(line.split() for line in _read("/sys/fs/cgroup/memory.stat").splitlines())
        # The kernel reclaims inactive page cache on demand.
        found.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))
    return min(found, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class Memory:
    """Decides whether another job fits into this machine's memory."""

    def __init__(self) -> None:
        self._python_bytes = PYTHON_BYTES

    def learn(self, job: Job) -> None:
        """Raise the estimate of Python's memory to the measured peak of a CPU job that has ended."""
        peak = job.result().get("metrics", {}).get("speed/peak_memory_mb")
        if peak and not job.gpus:
            self._python_bytes = max(self._python_bytes, int(peak * MIB) - tensor_bytes(job))

    def fits(self, job: Job, running: Mapping[int, Job]) -> bool:
        """Return whether a job fits beside the running ones, reserving memory they need but have not allocated yet.

        Args:
            job: The job to start.
            running: The running jobs by process id.
        """
        free = free_bytes()
        if free is None or not running:
            return True
        growth = sum(max(0, self._need(other) - _resident_bytes(pid)) for pid, other in running.items())
        return free - growth >= self._need(job)

    def _need(self, job: Job) -> int:
        return job.processes * (self._python_bytes + (0 if job.gpus else tensor_bytes(job)))


def _resident_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE") if fields else 0


class Gpus:
    """Assigns GPUs to jobs, several small jobs to one GPU if its memory allows.

    Args:
        per_gpu: Jobs per GPU; ``auto``: as many as its memory holds by a conservative estimate.
        free: Free bytes of each GPU, by its name in CUDA_VISIBLE_DEVICES; None if unknown: the GPU then runs one job.
    """

    def __init__(self, per_gpu: int | str, free: Mapping[str, int | None]) -> None:
        self.per_gpu, self.free = per_gpu, free

    def at_once(self, job: Job, most: int) -> int:
        """Return how many jobs like this one run at a time, at most ``most``."""
        running: list[tuple[Job, list[str]]] = []
        while len(running) < most and (gpus := self.pick(job, running)):
            running.append((job, gpus))
        return len(running)

    def pick(self, job: Job, running: Sequence[tuple[Job, Sequence[str]]]) -> list[str]:
        """Choose GPUs for a job, the least used first, so that one is shared only when all are busy.

        Args:
            job: The job to start.
            running: The running jobs and their GPUs.

        Returns:
            As many GPUs as the job needs; empty if it has to wait.
        """
        on = {gpu: [other for other, theirs in running if gpu in theirs] for gpu in self.free}
        able = sorted((gpu for gpu in on if self._takes(gpu, job, on[gpu])), key=lambda gpu: len(on[gpu]))
        return able[: job.gpus] if len(able) >= job.gpus else []

    def _takes(self, gpu: str, job: Job, on_it: Sequence[Job]) -> bool:
        if self.per_gpu != "auto":
            return len(on_it) < self.per_gpu
        if not on_it:
            return True
        # Sharing a GPU with one rank of a multi-GPU job would slow down all its ranks.
        if job.gpus > 1 or any(other.gpus > 1 for other in on_it) or len(on_it) >= SHARED_AT_MOST:
            return False
        needed = sum(CUDA_BYTES + tensor_bytes(each) for each in (job, *on_it))
        return needed <= GPU_SHARE * (self.free[gpu] or 0)


def find_gpus() -> dict[str, int | None]:
    """Return the GPUs this process may use, named as in CUDA_VISIBLE_DEVICES, with their free bytes (None: unknown)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        names = [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    else:
        names = [v.strip() for v in visible.split(",") if v.strip() not in ("", "-1")]
    # WSL and some containers have nvidia-smi but not the driver's folder in /proc.
    ask = names or (visible is None and shutil.which("nvidia-smi"))
    free = _ask_driver() if ask else {}
    names = names or [name for name in free if name.isdigit()]
    return {name: free.get(name) for name in names}


def _ask_driver() -> dict[str, int]:
    """Return the free bytes of each GPU by UUID and by index, from nvidia-smi; empty if it fails.

    Every index maps to the minimum over all GPUs, since CUDA may number them in another order.
    """
    question = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=True, timeout=10).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
        found = {uuid: int(free) * MIB for _, uuid, free in rows}
        return found | {index: min(found.values()) for index, _, _ in rows}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
