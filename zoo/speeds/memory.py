"""Measures the peak memory of a block of code, on CPU and GPU."""

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
"""Written to `CLEAR`, it resets the peak resident memory (proc(5))."""


@dataclass
class Memory:
    """Peak memory of a block, filled in at its end.

    Attributes:
        peak_mb: Peak in MiB: allocated by torch on a GPU; resident on a CPU, including Python and libraries.
        rise_mb: The part of the peak above the memory in use at the start (such as the weights).
        exact: False if the peak cannot be reset (``/proc/self/clear_refs`` is missing or not writable). Then the peak
            is that of the whole process so far, and the rise is what the block added to *that*, 0 if it stayed below.
    """

    peak_mb: float = 0.0
    rise_mb: float = 0.0
    exact: bool = True


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Memory]:
    """Measures the peak memory of a block: ``with peak_memory(device) as memory: …``, then ``memory.peak_mb``.

    On a CPU the rise is a lower bound, because the allocator reuses freed memory that it has not returned to the
    system. It is asked to return as much as possible first.
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
    """Returns the peak resident memory of this process so far in MiB, including Python and libraries."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _reset_peak() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
        return _status("VmHWM") > 0
    except (OSError, LookupError):
        return False


def _status(key: str) -> float:
    """Returns the value of a line of `STATUS` in MiB; raises LookupError if there is no such line."""
    line = next((line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")), None)
    if line is None:
        raise LookupError(key)
    return int(line.split()[1]) / 1024


def _trim() -> None:
    """Returns freed memory to the system, which glibc keeps; other C libraries have no such call."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
