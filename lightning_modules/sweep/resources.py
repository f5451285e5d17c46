"""How much of this machine a job needs, and how much there is: cores, memory, GPUs. Needs no torch."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_modules.sweep.jobs import Job

MIB = 1 << 20
PYTHON_BYTES = 700 * MIB
"""Of a CPU job: Python with its libraries. Jobs that have ended say better."""

CUDA_BYTES = 1200 * MIB
"""Of a GPU job, on the GPU: CUDA's context, cuDNN's and cuBLAS's workspaces."""

PARAMETER_BYTES = 20
"""Weight, gradient, two moments of the optimizer and a copy for the best checkpoint, 4 bytes each."""

ACTIVATION_BYTES = 16
"""An output of a convolution, its normalisation and its activation are kept for the backward pass, 4 bytes each; and
what the backward pass itself needs."""

SHARED_AT_MOST = 8
"""Jobs that share a GPU: more would wait for each other's launches."""

GPU_SHARE = 0.8
"""Of a GPU's free memory: estimates are not exact, and the allocator keeps pieces that it cannot use."""


def tensor_bytes(job: Job) -> int:
    """About what the tensors of one of a job's processes take while it trains, in float32."""
    cost, images = job.cost or {}, job.spec.data.batch_size / job.processes
    activations = ACTIVATION_BYTES * images * cost.get("cost/activations", 0)
    return int(PARAMETER_BYTES * cost.get("cost/params", 0) + activations)


def cores() -> int:
    """The processors that this process may use: those it is bound to, and no more than a container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return min(bound, max(1, math.ceil(int(quota) / int(period)))) if quota.isdigit() else bound


def free_bytes() -> int | None:
    """Memory that can still be had, in this container and on this machine; None where nobody says."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    found = [int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"]
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        stat = dict(line.split() for line in _read("/sys/fs/cgroup/memory.stat").splitlines())
        # The page cache gives way.
        found.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))
    return min(found, default=None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class Memory:
    """Whether another job fits into this machine's memory."""

    def __init__(self) -> None:
        self._python_bytes = PYTHON_BYTES

    def learn(self, job: Job) -> None:
        """Looks what a job that ended took at its peak."""
        peak = job.result().get("metrics", {}).get("speed/peak_memory_mb")
        if peak and not job.gpus:
            self._python_bytes = max(self._python_bytes, int(peak * MIB) - tensor_bytes(job))

    def fits(self, job: Job, running: Mapping[int, Job]) -> bool:
        """Args: the job, and those that run by process number: what they have not taken yet is reserved for them."""
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
    """The GPUs that jobs may use, and how many may share one.

    Args:
        per_gpu: Jobs on a GPU; ``auto``: as many small ones as its memory holds by a careful estimate.
        free: GPU, as CUDA_VISIBLE_DEVICES calls it → free bytes; None where nobody says: then one job has it alone.
    """

    def __init__(self, per_gpu: int | str, free: Mapping[str, int | None]) -> None:
        self.per_gpu, self.free = per_gpu, free

    def at_once(self, job: Job) -> int:
        """How many jobs like this one run at a time, at most."""
        if self.per_gpu != "auto":
            return len(self.free) * self.per_gpu // job.gpus
        if job.gpus > 1:
            return len(self.free) // job.gpus
        return sum(
            max(1, min(SHARED_AT_MOST, int(GPU_SHARE * (free or 0)) // _need(job))) for free in self.free.values()
        )

    def pick(self, job: Job, running: Sequence[tuple[Job, Sequence[str]]]) -> list[str]:
        """The GPUs for a job, the least used first: one is shared only when all are busy. Empty: it has to wait."""
        on = {gpu: [other for other, theirs in running if gpu in theirs] for gpu in self.free}
        able = sorted((gpu for gpu in on if self._takes(gpu, job, on[gpu])), key=lambda gpu: len(on[gpu]))
        return able[: job.gpus] if len(able) >= job.gpus else []

    def _takes(self, gpu: str, job: Job, on_it: Sequence[Job]) -> bool:
        if self.per_gpu != "auto":
            return len(on_it) < self.per_gpu
        if not on_it:
            return True
        # Processes that wait for each other are held up by whoever shares a GPU with one of them.
        if job.gpus > 1 or any(other.gpus > 1 for other in on_it) or len(on_it) >= SHARED_AT_MOST:
            return False
        return sum(map(_need, [job, *on_it])) <= GPU_SHARE * (self.free[gpu] or 0)


def _need(job: Job) -> int:
    """Bytes on each of a job's GPUs."""
    return CUDA_BYTES + tensor_bytes(job)


def find_gpus() -> dict[str, int | None]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them, with their free bytes; without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        names = [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    else:
        names = [v.strip() for v in visible.split(",") if v.strip() not in ("", "-1")]
    # WSL and some containers have the driver's program and not its folder.
    ask = names or (visible is None and shutil.which("nvidia-smi"))
    told = _ask_driver() if ask else {}
    names = names or [name for name in told if name.isdigit()]
    return {name: told.get(name) for name in names}


def _ask_driver() -> dict[str, int]:
    """Index and UUID of each GPU → free bytes. The least of all for every index: CUDA may count in another order."""
    question = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=True, timeout=10).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
        found = {uuid: int(free) * MIB for _, uuid, free in rows}
        return found | {index: min(found.values()) for index, _, _ in rows}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
