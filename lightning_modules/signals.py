"""Stopping a run from outside: Ctrl-C, SIGTERM, and the signals of a scheduler."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = tuple(s for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if (s := getattr(signal, name, None)))
"""SIGUSR1 and SIGUSR2: a scheduler's warning that the time is nearly over."""

AGAIN_S = 1.0
"""A terminal and a launcher may both pass on the same Ctrl-C; a second one after this many seconds is meant."""


class Stopped(BaseException):
    """Somebody stopped the run. Not an Exception: nothing but the run itself should catch it.

    Attributes:
        code: The exit code a shell expects: 128 + the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.code = 128 + signum


class StopSignals:
    """Takes over the signals that stop a run: they raise `Stopped`.

    Attributes:
        wait: Somebody looks at ``pending`` soon (at the end of the batch): the first signal is only kept there.
        pending: The signal that was kept; None for none.
    """

    def __init__(self) -> None:
        self.wait = False
        self.pending: int | None = None
        self._kept_at = 0.0
        self._pid = os.getpid()
        self._old: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over. To be called again where another library has put its own handlers there."""
        self._set(self._handle)

    def ignore(self) -> None:
        """What is written now shall be written whole."""
        self._set(signal.SIG_IGN)

    def restore(self) -> None:
        """Gives the signals back."""
        self._set(None)

    def _set(self, handler: Any) -> None:
        # Python allows this in the main thread only; elsewhere the signals are somebody else's business.
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                old = signal.signal(signum, handler or self._old.get(signum) or signal.SIG_DFL)
                self._old.setdefault(signum, old)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Worker processes inherit the handler. A scheduler signals them too; they end with the run.
        if os.getpid() != self._pid:
            return
        now = time.monotonic()
        if self.pending is None and self.wait:
            self.pending, self._kept_at = signum, now
        elif self.pending is None or now - self._kept_at > AGAIN_S:
            raise Stopped(signum)
