"""How much memory some work takes at most."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"
"""What the kernel wants to read in `CLEAR` (proc(5))."""


@dataclass
class Memory:
    """Filled in once the work is done.

    Attributes:
        peak_mb: MiB at most: allocated by torch on a GPU; on a CPU resident, Python and libraries included.
        rise_mb: How much of that was not there before the work began (before it: the weights).
        exact: False where the peak cannot be reset (``/proc/self/clear_refs`` is not there, or not ours): then it is
            that of the whole process so far, and the rise is what the work added to *that*, 0 where it stayed below.
    """

    peak_mb: float = 0.0
    rise_mb: float = 0.0
    exact: bool = True


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Memory]:
    """Measures what happens inside: ``with peak_memory(device) as memory: …``, then ``memory.peak_mb``.

    On a CPU the rise is a lower estimate: freed memory that the allocator has not given back is used again. It is
    asked to give back what it can first.
    """
    memory = Memory()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / 2**20
        yield memory
        torch.cuda.synchronize(device)
        memory.peak_mb = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        _trim()
        memory.exact = _reset_peak()
        before = _status("VmRSS") if memory.exact else process_peak_mb()
        yield memory
        memory.peak_mb = _status("VmHWM") if memory.exact else process_peak_mb()
    memory.rise_mb = max(0.0, memory.peak_mb - before)


def process_peak_mb() -> float:
    """MiB that this process had resident at most so far, Python and libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _reset_peak() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
        return _status("VmHWM") > 0
    except (OSError, LookupError):
        return False


def _status(key: str) -> float:
    """MiB of a line of `STATUS`."""
    line = next((line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")), None)
    if line is None:
        raise LookupError(key)
    return int(line.split()[1]) / 1024


def _trim() -> None:
    """glibc keeps freed memory; other C libraries have no such call."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
