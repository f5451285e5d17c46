"""Finds out whether the kernel killed a process for lack of memory. Needs no torch."""

from __future__ import annotations

import re
import signal
from pathlib import Path

CONTAINER = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Files that count the OOM kills of a container: cgroup v2, v1."""

MACHINE = "/proc/vmstat"


class OomWatch:
    """Counts the kernel's OOM kills from its creation on; create it before the process whose end it is to explain."""

    def __init__(self) -> None:
        self._before = _counts()

    def ending(self, code: int) -> int | str:
        """Describes how a process with this exit code ended: the code itself, or a text for SIGKILL."""
        return f"killed by SIGKILL: {self.why()}" if code == -signal.SIGKILL else code

    def why(self) -> str:
        """Describes the likely reason for a SIGKILL."""
        container, machine = (now - before for now, before in zip(_counts(), self._before, strict=True))
        if container > 0:
            return "out of memory: the kernel killed a process of this container, which had reached its memory limit"
        if machine > 0:
            return "probably out of memory: the kernel has killed a process for lack of memory since"
        return "out of memory, or kill -9 (the kernel has counted no kill for lack of memory)"


def _counts() -> tuple[int, int]:
    return sum(_kills(path) for path in CONTAINER), _kills(MACHINE)


def _kills(path: str) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
