"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from zoo.errors import ConvzooError


class Lock:
    """Holds a file's lock for as long as this process lives; the operating system lets go of it, whatever happens.

    Args:
        path: The lock's file; it says who holds it.
        what: What is going on there, for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> Lock:
        """Takes the lock.

        Raises:
            ConvzooError: Another process has it.
        """
        self._file = self.path.open("a+", errors="replace")
        if not self._take():
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise ConvzooError(f"{self.what} in {self.path.parent} is running already ({owner}).")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return self

    def _take(self) -> bool:
        # Somebody who only looks (`is_locked`) holds it for a moment.
        for wait_s in (0.02, 0.1, 0.3, 0):
            try:
                # POSIX locks, not flock: they hold on network file systems too.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                time.sleep(wait_s)
        return False

    def __exit__(self, *_: object) -> None:
        self._file.close()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock."""
    try:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
