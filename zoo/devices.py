"""Names devices, counts cores, and lists the instruction sets of the CPU. Imports no torch."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_name(device: torch.device) -> str:
    """Returns the vendor's name of a CUDA device or of the CPU; for any other device its PyTorch name."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()
    return str(device)


def processor() -> str:
    """Returns the CPU's name and its instruction set flags, as text."""
    known = sorted({line for line in _cpu_info() if line.startswith(("model name", "flags", "Features"))})
    return "\n".join(known) or f"{platform.machine()} {platform.processor()}"


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _cpu_info() -> tuple[str, ...]:
    """Returns the lines of Linux's ``/proc/cpuinfo``; empty on other systems."""
    info = Path("/proc/cpuinfo")
    return tuple(info.read_text().splitlines()) if info.exists() else ()
