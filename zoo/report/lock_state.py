"""Checks whether a process holds the lock of a folder, without taking the lock."""

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
"""Seconds between two heartbeats of a lock's holder, which updates the modification time of the lock file."""

DEAD_AFTER = 2.5
"""Missed heartbeats after which a holder counts as dead, if its lock itself cannot be checked."""

HELD = (errno.EACCES, errno.EAGAIN)
"""Error numbers if another process holds the lock; other errors mean that locks are not supported here."""


def is_locked(path: Path) -> bool:
    """Returns whether another process holds a POSIX lock (``fcntl.lockf``) on a file.

    Where that cannot be known, returns whether the holder had a recent heartbeat: the file system does not support
    locks, or locks may be local to each machine and the file names a holder on another one.
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
        # Taking the lock, even briefly, could stop a job that is just starting, so query it with F_GETLK.
        # struct flock is type, whence, start, length, pid.
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
    """Returns the host of a lock's holder, from the text in the lock file (``process 7 on HOST``)."""
    return holder.rpartition(" on ")[2]
