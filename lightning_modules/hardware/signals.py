"""Stopping a run from outside: Ctrl-C, SIGTERM, the signals of a scheduler, and a limit of time."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = tuple(s for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if (s := getattr(signal, name, None)))
"""SIGUSR1 and SIGUSR2: a scheduler's warning that the time is nearly over."""

TIME_OVER = 124
"""The exit code of a run that reached its limit of time: that of the command ``timeout``."""

CODES = (TIME_OVER, *(128 + signum for signum in SIGNALS))
"""Exit codes of a run that was stopped: the same command goes on."""

AGAIN_S = 1.0
"""A terminal and a launcher may both pass on the same Ctrl-C; a second one after this many seconds is meant."""


class Stopped(BaseException):
    """Somebody stopped the run. Not an Exception: nothing but the run itself should catch it.

    Attributes:
        code: The exit code a shell expects: 128 + the signal's number; `TIME_OVER`.
    """

    def __init__(self, signum: int) -> None:
        over = signum == signal.SIGALRM
        super().__init__("its time is over (trainer.max_time)" if over else f"stopped by {signal.Signals(signum).name}")
        self.code = TIME_OVER if over else 128 + signum


class StopSignals:
    """Takes over the signals that stop a run: they raise `Stopped`.

    Args:
        wait: As below.

    Attributes:
        wait: Somebody looks at ``pending`` soon (at the end of the batch): the first signal is only kept there.
        pending: The signal that was kept; None for none.
        begun: When the run began, on the machine's monotonic clock: its limit of time counts from then.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait
        self.pending: int | None = None
        self.begun = time.monotonic()
        self._kept_at = 0.0
        self._pid = os.getpid()
        self._old: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over. To be called again where another library has put its own handlers there."""
        self._set(self._handle)

    def limit(self, seconds: float | None) -> None:
        """Stops the run when it has taken so long since it began; None: never."""
        if seconds is not None and threading.current_thread() is threading.main_thread():
            left = seconds - (time.monotonic() - self.begun)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))

    def look(self) -> None:
        """From now on a signal stops the run at once.

        Raises:
            Stopped: One was kept.
        """
        self.wait = False
        if self.pending is not None:
            raise Stopped(self.pending)

    @property
    def waited_s(self) -> float:
        """Seconds since a signal was kept; 0 where none was."""
        return 0.0 if self.pending is None else time.monotonic() - self._kept_at

    def ignore(self) -> None:
        """What is written now shall be written whole."""
        self._set(signal.SIG_IGN)

    def restore(self) -> None:
        """Gives the signals back."""
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
            for signum, old in self._old.items():
                signal.signal(signum, old or signal.SIG_DFL)
            self._old.clear()

    def _set(self, handler: Any) -> None:
        # Python allows this in the main thread only; elsewhere the signals are somebody else's business.
        if threading.current_thread() is threading.main_thread():
            for signum in (*SIGNALS, signal.SIGALRM):
                old = signal.signal(signum, handler)
                self._old.setdefault(signum, old)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # What is forked inherits the handler, and is not the run.
        if os.getpid() != self._pid:
            return
        now, first = time.monotonic(), self.pending is None
        if first:
            self.pending, self._kept_at = signum, now
        if not self.wait if first else now - self._kept_at > AGAIN_S:
            raise Stopped(signum)
