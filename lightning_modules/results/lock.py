"""Locks a folder for one process, on one machine or on several that share the folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from pathlib import Path

from zoo.errors import ConvzooError
from zoo.log import log
from zoo.report.lock_state import BEAT_S, DEAD_AFTER, HELD, host
from zoo.text import typed


class Lock:
    """A file lock, held for as long as this process lives; the operating system releases it however the process ends.

    Some network file systems keep locks local to each machine, or have none. So the file also names its holder, and
    its modification time is renewed every `BEAT_S` seconds: this heartbeat reveals a holder on another machine whose
    lock is not visible here. No clocks are compared: only whether the file's time changes.

    Args:
        path: The lock's file.
        what: What the lock protects, for the error message (``a run``).
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._end = threading.Event()

    def __enter__(self) -> Lock:
        """Acquires the lock; waits `DEAD_AFTER` beats if the last holder was on another machine and never released it.

        Raises:
            ConvzooError: Another process holds it.
        """
        locked, owner = self._take()
        if locked is not False and owner and (locked is None or host(owner) != socket.gethostname()):
            # Locks prove nothing about a holder on another machine, so watch its heartbeat. Release our lock first:
            # closing any descriptor of the file, as watching does, drops POSIX locks.
            self._file.close()
            log.info(f"{typed(self.path.parent)}: waiting to see whether {owner} still uses it")
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
        """Returns whether the file could be locked (None if locks are not supported), and the holder it names."""
        self._file = self.path.open("a+", encoding="utf-8", errors="replace")
        locked: bool | None = False
        # On systems without a lock query, `is_locked` itself holds the lock for a moment, hence the retries.
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
        """Returns whether the holder's heartbeat is seen within `DEAD_AFTER` beats."""
        first, deadline = self._time(), time.monotonic() + DEAD_AFTER * BEAT_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 10)
            if self._time() != first:
                return True
        return False

    def _time(self) -> int:
        # Reopened each time: a network file system may serve the attributes of an open file from its cache.
        with self.path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            # A network file system may fail for a while; a removed folder is reported elsewhere.
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        try:
            self._file.truncate(0)
        finally:
            self._file.close()
