"""One process at a time in a folder, on one machine or on several that share it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from pathlib import Path

from zoo.errors import ConvzooError
from zoo.report.lock_state import BEAT_S, DEAD_AFTER, HELD, host
from zoo.text import typed


class Lock:
    """Holds a file's lock for as long as this process lives; the operating system lets go of it, whatever happens.

    Some network file systems keep locks on each machine for itself, or have none. So the file says who holds it, and
    its time is renewed every `BEAT_S` seconds: a holder on another machine that cannot be seen by its lock is seen by
    that. Nobody's clock is asked: the file's time moves, or it does not.

    Args:
        path: The lock's file.
        what: What is going on there, for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._end = threading.Event()

    def __enter__(self) -> Lock:
        """Takes the lock. Where the last holder was on another machine and did not let go, it takes `DEAD_AFTER` beats.

        Raises:
            ConvzooError: Another process has it.
        """
        locked, owner = self._take()
        if locked is not False and owner and (locked is None or host(owner) != socket.gethostname()):
            # Its lock, or the lack of one, says nothing about such a holder. To look at the file gives up our lock.
            self._file.close()
            print(f"{typed(self.path.parent)} was left by {owner}: waiting for a sign of life.", flush=True)
            locked = False if self._beats() else self._take()[0]
        if locked is False:
            self._file.close()
            raise ConvzooError(
                f"{self.what} in {typed(self.path.parent)} is running already ({owner or 'another process'})."
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return self

    def _take(self) -> tuple[bool | None, str]:
        """Whether the file could be locked (None where there are no locks), and who it says holds it."""
        self._file = self.path.open("a+", encoding="utf-8", errors="replace")
        locked: bool | None = False
        # Where the system cannot be asked, whoever looks (`is_locked`) holds it for a moment.
        for wait_s in (0.02, 0.1, 0.3, 0):
            try:
                # POSIX locks, not flock: they hold on network file systems too.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
                break
            except OSError as error:
                if error.errno not in HELD:
                    locked = None
                    break
                time.sleep(wait_s)
        self._file.seek(0)
        return locked, self._file.read(200).strip()

    def _beats(self) -> bool:
        """Whether the holder gives a sign of life."""
        first, deadline = self._time(), time.monotonic() + DEAD_AFTER * BEAT_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 10)
            if self._time() != first:
                return True
        return False

    def _time(self) -> int:
        # Opened anew: a network file system may answer for an open file from what it remembers.
        with self.path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            # A network file system fails for a while; a folder that somebody removed is told elsewhere.
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        try:
            self._file.truncate(0)
        finally:
            self._file.close()
