"""Whether a process holds the lock of a folder; looks at the lock without taking it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import time
from io import TextIOWrapper
from pathlib import Path

BEAT_S = 10.0
"""Seconds between two signs of life of whoever holds a lock: the time of its file moves."""

DEAD_AFTER = 2.5
"""Beats without a sign of life, after which a holder that cannot be seen by its lock counts as dead."""

HELD = (errno.EACCES, errno.EAGAIN)
"""What the operating system says where another process has the lock; other errors mean that it has no locks here."""


def is_locked(path: Path) -> bool:
    """Whether another process holds a POSIX lock (``fcntl.lockf``) on a file.

    Where that says nothing (the file system has no locks, or each machine its own, and the file names a holder on
    another one): whether the holder gave a sign of life lately.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            try:
                locked = _asked(file)
            except OSError as error:
                return error.errno in HELD or _lives(file, elsewhere=False)
            return locked or _lives(file, elsewhere=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in HELD


def _asked(file: TextIOWrapper) -> bool:
    if sys.platform == "linux":
        # Taking the lock, however shortly, could stop a job that starts now. So the kernel is asked:
        # struct flock has type, whence, start, length, pid.
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        return struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False


def _lives(file: TextIOWrapper, elsewhere: bool) -> bool:
    holder = file.read(200).strip()
    if not holder or (elsewhere and host(holder) == socket.gethostname()):
        return False
    return abs(time.time() - os.fstat(file.fileno()).st_mtime) < DEAD_AFTER * BEAT_S


def host(holder: str) -> str:
    """The machine of a holder, as its lock's file names it (``process 7 on HOST``)."""
    return holder.rpartition(" on ")[2]
