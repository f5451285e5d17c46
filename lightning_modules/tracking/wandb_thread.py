"""Feed a W&B run from a background thread, so that W&B can neither delay nor break the training."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.tracking.wandb_files import Row, Written, has_end, rows, run_files
from lightning_modules.tracking.wandb_service import kill_service, plain, start_service, stop_service
from lightning_modules.tracking.wandb_upload import is_uploaded, mark_uploaded
from zoo.log import log

if TYPE_CHECKING:
    from lightning_modules.tracking.base import Outcome

FLUSH_S = 1
"""Interval, in seconds, at which W&B flushes its file. A killed run would lose the rows of W&B's default, 15 s."""

MANY = 1000
"""Number of rows in memory at which those that W&B has written are dropped."""

STARTS = 4
"""Number of times W&B may fail in one run before the run continues without it."""


class WandbThread(threading.Thread):
    """Starts a W&B run, logs each row that it is given, and ends the run.

    If the server does not take the run, the run is offline. If W&B fails later, it is started again and whatever is
    missing from its files is logged again; W&B's files are the only record of what has been logged.

    A row stays in memory until it is found in a file.

    Attributes:
        mode: ``online`` or ``offline``; None if W&B does not work.
        online: Whether to contact the server.
        earlier: Files of earlier starts of this run.
        own: Files of this start; more than one if W&B was started again.
        opened: Set once the W&B run has started, or cannot.
        refused: Number of rows that W&B refused, for example for a key that is no text.

    Args:
        arguments: Arguments of ``wandb.init``, including ``id`` and ``dir``.
        online: Whether to contact the server.
        timeout_s: Seconds to wait for the server.
    """

    def __init__(self, arguments: dict[str, Any], online: bool, timeout_s: float) -> None:
        super().__init__(name="wandb", daemon=True)
        self._arguments, self._timeout_s = arguments, timeout_s
        self.mode: str | None = None
        self.online, self._why = online, "" if online else "as requested"
        self.earlier, self.own = run_files(Path(arguments["dir"]), arguments["id"]), list[Path]()
        self.opened = threading.Event()
        self.refused = 0
        self._logged = 0
        self._rows: deque[Row] = deque()
        """Rows to be logged."""
        self._sent: list[Row] = []
        """Rows given to W&B and not yet found in a file."""
        self._written = Written()
        self._outcome: Outcome | None = None
        self._changed = threading.Condition()

    def add(self, row: Row) -> None:
        """Log a row later."""
        with self._changed:
            self._rows.append(row)
            self._logged += 1
            self._changed.notify()

    def end(self, outcome: Outcome) -> None:
        """End the W&B run after its last row."""
        with self._changed:
            self._outcome = outcome
            self._changed.notify()

    def go_offline(self, why: str) -> None:
        """Do the rest offline. Kills W&B's service, so that calls that wait for the server fail."""
        self.online, self._why = False, why
        kill_service()

    def lost(self) -> tuple[int, int]:
        """Return how many rows are in none of W&B's files, and the number of all rows."""
        self._written.read()
        return self.refused + sum(row not in self._written for row in [*self._sent, *self._rows]), self._logged

    def run(self) -> None:
        for _ in range(STARTS):
            try:
                self._feed()
                return
            except BaseException as error:  # W&B raises anything, even SystemExit when its service dies
                reason = plain(error)
            finally:
                stop_service()
            if self._outcome and self.own and has_end(self.own[-1]):
                return  # nothing more can reach the file or the server
        self.mode = None
        log.warning(f"W&B does not work here ({reason}); the run continues without it")
        self.opened.set()

    def _feed(self) -> None:
        silencer = start_service()
        run = self._init()
        silencer.warned = False  # until here, W&B warns of settings
        files = [*self.earlier, *self.own]
        written = self._written = Written(self.earlier, self.own)
        self.own.append(Path(run.settings.sync_file))
        written.follow(self.own[-1])
        self.opened.set()
        for path in files if self.mode == "online" else ():
            for row in rows(path):
                if row["_step"] >= run.starting_step:
                    run.log({k: v for k, v in row.items() if not k.startswith("_")}, step=row["_step"], commit=True)
        number = max(run.starting_step, written.next)
        for row in self._waiting():
            if row not in written:
                number += self._log(run, row, number)
            if len(self._sent) % MANY == MANY - 1:
                written.read()
                self._sent = [row for row in self._sent if row not in written]
        run.summary.update(self._outcome.metrics | {"status": self._outcome.status})
        if self._outcome.requeued:
            run.mark_preempting()
        run.finish(exit_code=self._outcome.code)
        if self.mode == "online" and is_uploaded(self.own[-1], silencer.warned):
            mark_uploaded(*self.earlier, *self.own)

    def _waiting(self) -> Iterator[Row]:
        """Yield every row that may be in no file, and wait for further ones until the run ends."""
        with self._changed:
            self._rows.extendleft(reversed(self._sent))
            self._sent = []
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outcome or self._rows)
                if not self._rows:
                    return
                self._sent.append(self._rows.popleft())
            yield self._sent[-1]

    def _log(self, run: Any, row: Row, number: int) -> bool:
        """Log the row that was sent last; returns False if W&B refuses it."""
        try:
            run.log(row, step=number, commit=True)
        except (TypeError, ValueError) as error:  # it is about the row: a dead service raises other errors
            if not self.refused:
                log.warning(f"W&B refuses a row ({plain(error)}): {[*row]}. The run continues without such rows there.")
            self.refused += 1
            self._sent.pop()
            return False
        return True

    def _init(self) -> Any:
        """Start the W&B run; offline if W&B cannot be used online, for example without an API key.

        Raises:
            BaseException: W&B failed. If that was online, the next start is offline.
        """
        import wandb

        limits = {"init_timeout": self._timeout_s, "x_transaction_log_flush_interval": FLUSH_S, "silent": True}
        # The rest of the time is for the service's own end after the upload.
        limits |= {"finish_timeout": max(1.0, 0.75 * self._timeout_s), "finish_timeout_raises": True}
        online = self.online
        resume = "allow" if self.earlier or self.own else self._arguments.get("resume", "allow")
        given = self._arguments | {"mode": "online" if online else "offline", "resume": resume if online else None}
        try:
            run = wandb.init(settings=wandb.Settings(**limits), **given)
        except BaseException as error:
            if self.online:
                self.online, self._why = False, plain(error)
            if online and isinstance(error, wandb.errors.UsageError):
                return self._init()
            raise  # the service still holds the id of the run: it must be started again
        self.mode = given["mode"]
        if self._why:
            log.info(f"W&B: this run is offline: {self._why}")
        self._why = ""
        _define_axes(run)
        return run


def _define_axes(run: Any) -> None:
    """Plot the curves over epochs, which are comparable between batch sizes while steps are not.

    ``summary="max,last"`` is not used: it makes the summary's ``val/acc`` a number in a finished run but
    ``{"max", "last"}`` in a stopped one, so that a sweep or plot that reads ``val/acc`` would miss one of the two. Here
    it is always a number: the latest value during training, and the tested checkpoint's value at the end.
    """
    run.define_metric("epoch", hidden=True)
    for curves in ("train/*", "val/*"):
        run.define_metric(curves, step_metric="epoch", step_sync=True)
