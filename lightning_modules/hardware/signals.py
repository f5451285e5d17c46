"""Handles the signals that stop a run: Ctrl-C, SIGTERM, a scheduler's signals, and a time limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = tuple(s for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if (s := getattr(signal, name, None)))
"""SIGUSR1 and SIGUSR2 are a scheduler's warning that the time limit is near."""

TIME_OVER = 124
"""Exit code of a run that reached its time limit, as for the command ``timeout``."""

CODES = (TIME_OVER, *(128 + signum for signum in SIGNALS))
"""Exit codes of a stopped run, which the same command resumes."""

AGAIN_S = 1.0
"""A terminal and a launcher may both deliver one Ctrl-C; a second one counts only after this many seconds."""


class Stopped(BaseException):
    """Raised when a signal stops the run. A BaseException, since only the run itself should catch it.

    Attributes:
        code: The exit code a shell expects: 128 + the signal's number, or `TIME_OVER`.
    """

    def __init__(self, signum: int) -> None:
        over = signum == signal.SIGALRM
        super().__init__(
            "time limit reached (trainer.max_time)" if over else f"stopped by {signal.Signals(signum).name}"
        )
        self.code = TIME_OVER if over else 128 + signum


class StopSignals:
    """Handles the signals that stop a run by raising `Stopped`.

    Args:
        wait: Initial value of the attribute.

    Attributes:
        wait: Whether the first signal is only stored in ``pending``, because the run will check it soon (at the end of
            the batch).
        pending: The stored signal; None if there is none.
        begun: Start of the run on the machine's monotonic clock; the time limit counts from here.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait
        self.pending: int | None = None
        self.begun = time.monotonic()
        self._kept_at = 0.0
        self._pid = os.getpid()
        self._old: dict[int, Any] = {}

    def install(self) -> None:
        """Installs the handlers; call it again after another library has replaced them."""
        self._set(self._handle)

    def limit(self, seconds: float | None) -> None:
        """Stops the run this many seconds after it began; None: no limit."""
        if seconds is not None and threading.current_thread() is threading.main_thread():
            left = seconds - (time.monotonic() - self.begun)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))

    def look(self) -> None:
        """Checks for a pending signal; from now on, a signal stops the run at once.

        Raises:
            Stopped: A signal is pending.
        """
        self.wait = False
        if self.pending is not None:
            raise Stopped(self.pending)

    @property
    def waited_s(self) -> float:
        """Seconds since the pending signal arrived; 0 if there is none."""
        return 0.0 if self.pending is None else time.monotonic() - self._kept_at

    def ignore(self) -> None:
        """Ignores signals from now on, while the final files are written."""
        self._set(signal.SIG_IGN)

    def restore(self) -> None:
        """Restores the previous handlers and cancels the time limit."""
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
            for signum, old in self._old.items():
                signal.signal(signum, old or signal.SIG_DFL)
            self._old.clear()

    def _set(self, handler: Any) -> None:
        # Python allows this in the main thread only; in another thread, the caller handles signals.
        if threading.current_thread() is threading.main_thread():
            for signum in (*SIGNALS, signal.SIGALRM):
                old = signal.signal(signum, handler)
                self._old.setdefault(signum, old)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Forked processes inherit the handler but are not the run.
        if os.getpid() != self._pid:
            return
        now, first = time.monotonic(), self.pending is None
        if first:
            self.pending, self._kept_at = signum, now
        if not self.wait if first else now - self._kept_at > AGAIN_S:
            raise Stopped(signum)
