"""What devices are called, and what a processor can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """What the device is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()
    return str(device)


def processor() -> str:
    """The processor's name and the instructions that it knows, as text."""
    known = sorted({line for line in _cpu_info() if line.startswith(("model name", "flags", "Features"))})
    return "\n".join(known) or f"{platform.machine()} {platform.processor()}"


@functools.cache
def _cpu_info() -> tuple[str, ...]:
    """What Linux says of its processors, line by line; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    return tuple(info.read_text().splitlines()) if info.exists() else ()
