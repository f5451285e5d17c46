"""Feed a W&B run from a background thread, so that W&B can neither delay nor break the training."""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lightning_modules.tracking.wandb_file import count_rows, has_end, rows, run_files
from lightning_modules.tracking.wandb_service import kill_service, quiet_setup, service_died, stop_service
from lightning_modules.tracking.wandb_upload import missing, upload_command

FLUSH_S = 1
"""Interval, in seconds, at which W&B flushes its file. A killed run would lose the rows of W&B's default, 15 s."""

SAFE_S = 2.0 * FLUSH_S
"""A row is safely in the file if W&B's service is still alive this many seconds after accepting it."""

GRACE_S = 5.0
"""Seconds to finish the local file once the time for the server is over."""

ENDS_S = 0.5
"""Seconds to wait for the service's exit after an error: its connection breaks shortly before the process exits."""

RESTARTS = 3
"""Number of times W&B's service may die in one run before the run continues without W&B."""

STEP = "trainer/global_step"
"""Column of the optimizer steps, named as in Lightning's own logger."""


@dataclass
class End:
    """The end of a run.

    Attributes:
        row: Last row of the history.
        summary: Final values of the summary.
        code: Exit code; W&B marks a run with any other code than 0 as failed.
        requeued: True if a scheduler will start the run again.
    """

    row: dict[str, Any]
    summary: dict[str, Any]
    code: int
    requeued: bool


class WandbRun:
    """A W&B run that is fed in the background.

    Rows wait in memory until W&B accepts them. Only the start and the end of the run wait for W&B, ``timeout_s`` in
    total. If the server does not accept the run, it continues offline. If W&B's service dies, it is restarted and the
    rows it had not written yet are logged again. If all of this fails, the run continues without W&B.

    Attributes:
        id: The run's id.
        mode: ``online`` or ``offline``; None if W&B could not be started at all.
        dirs: Folders of all starts of this run, the first start first.
        lost_rows: Number of rows in none of W&B's files, known once the run has ended.

    Args:
        arguments: Arguments of ``wandb.init``, including ``id`` and ``dir``.
        online: Whether to contact the server.
        why: Text that says why the run is offline.
        timeout_s: Total seconds to wait for the server, at the start and at the end together.
        goes_on: True if training resumes an earlier start, whose rows are then not logged again.
    """

    def __init__(self, arguments: dict[str, Any], online: bool, why: str, timeout_s: float, goes_on: bool) -> None:
        self.id, self.mode = arguments["id"], None
        self.lost_rows = 0
        self._arguments, self._why, self._timeout_s, self._goes_on = arguments, why, timeout_s, goes_on
        self._online = online
        self._earlier = [f for f in run_files(Path(arguments["dir"])) if f.name == f"run-{self.id}.wandb"]
        self._own: list[Path] = []
        self._run: Any = None
        self._next = self._logged = self._dropped = self._restarts = 0
        self._seen: dict[str, int] = {}
        self._recent: deque[tuple[float, int, dict[str, Any]]] = deque()
        self._queue: SimpleQueue[tuple[int | None, dict[str, Any]] | End] = SimpleQueue()
        importlib.import_module("wandb")  # before the timeout starts: importing is no wait for the server
        self._opened, self._ended = threading.Event(), threading.Event()
        begin = time.monotonic()
        threading.Thread(target=self._work, name="wandb", daemon=True).start()
        if not self._opened.wait(timeout_s if online else min(timeout_s, GRACE_S)) and online:
            self._stop_waiting(f"the server did not answer within {timeout_s:g} s")
        self._left = max(timeout_s - (time.monotonic() - begin), timeout_s / 4)

    @property
    def dirs(self) -> list[str]:
        return [str(path.parent) for path in [*self._earlier, *self._own]]

    def log(self, row: dict[str, Any], step: int | None = None) -> None:
        """Queue a row of the history without waiting.

        Args:
            row: The row's values.
            step: Number of optimizer steps so far; None if the row belongs to no step.
        """
        self._queue.put((step, row))

    def finish(self, end: End) -> None:
        """End the run and report what was not written or not uploaded."""
        self._queue.put(end)
        if not self._ended.wait(self._left if self._online else max(self._left, GRACE_S)):
            self._stop_waiting(f"the server did not take everything within {self._timeout_s:g} s")
            self._ended.wait(GRACE_S)
        self._report()

    def _stop_waiting(self, why: str) -> None:
        """Kill W&B's service, so that calls waiting for it fail, and do the rest offline."""
        self._online, self._why = False, why
        kill_service()

    # The methods below, down to _init, run in the background thread.

    def _work(self) -> None:
        self._open()
        self._opened.set()
        end = None
        while end is None:
            with suppress(Empty):
                job = self._queue.get(timeout=FLUSH_S)
                if isinstance(job, End):
                    end = job
                elif not self._logged_before(*job):
                    step, row = job
                    self._write(row if step is None else row | {STEP: step})
            if service_died():
                self._open_again()
            else:
                while self._recent and self._recent[0][0] < time.monotonic() - SAFE_S:
                    self._recent.popleft()
        self._close(end)
        self._ended.set()

    def _logged_before(self, step: int | None, row: dict[str, Any]) -> bool:
        return step is not None and all(self._seen.get(key, -1) >= step for key in row)

    def _write(self, row: dict[str, Any]) -> None:
        self._logged += 1
        if self._run is None:
            return
        self._recent.append((time.monotonic(), self._next, row))
        self._next += 1
        self._send(self._recent[-1])

    def _send(self, numbered: tuple[float, int, dict[str, Any]]) -> None:
        try:
            self._run.log(numbered[2], step=numbered[1], commit=True)
        except BaseException as error:  # W&B raises even SystemExit once its service has died
            if service_died(ENDS_S):
                self._open_again()
            elif not self._dropped:
                self._dropped += 1
                print(f"W&B: a row was not taken ({plain(error)})", flush=True)

    def _close(self, end: End) -> None:
        while self._run is not None:
            try:
                if end.row:
                    row, end.row = end.row, {}
                    self._write(row)
                self._run.summary.update(end.summary)
                if end.requeued:
                    self._run.mark_preempting()
                self._run.finish(exit_code=end.code)
                break
            except BaseException:
                if not service_died(ENDS_S) or has_end(self._own[-1]):
                    kill_service()
                    break  # nothing more can reach the file or the server
                self._open_again()
        stop_service()

    def _open_again(self) -> None:
        self._restarts += 1
        self._run = None
        stop_service()
        if self._restarts > RESTARTS:
            self.mode = None
            return
        unsaved = list(self._recent)
        self._open()
        if self._run is None:
            return
        for _, number, row in unsaved:
            if number >= self._next:
                self._recent = deque(entry for entry in self._recent if entry[1] != number)
                self._recent.append((time.monotonic(), number, row))
                self._next = number + 1
                self._send(self._recent[-1])

    def _open(self) -> None:
        """Start the run online, else offline, else not at all."""
        if self._online:
            try:
                return self._init("online")
            except BaseException as error:
                if self._online:
                    self._online, self._why = False, f"the server did not take this run ({plain(error)})"
                # The service still holds the id of the run that failed to start.
                stop_service()
        for _ in range(2):  # the service may be killed while it starts
            try:
                self._init("offline")
                if self._why:
                    print(f"W&B: {self._why}, so this run is offline", flush=True)
                self._why = ""
                return
            except BaseException as error:
                self._run, self.mode, reason = None, None, plain(error)
                stop_service()
        print(f"W&B: it cannot be started ({reason}), so this run goes on without it", flush=True)

    def _init(self, mode: str) -> None:
        import wandb

        seconds = self._timeout_s
        quiet_setup()
        if mode == "online" and not self._online:
            # The main thread stopped waiting before there was a service that it could kill.
            raise TimeoutError(self._why)
        options = {"x_transaction_log_flush_interval": FLUSH_S, "silent": True, "init_timeout": seconds}
        if mode == "online":
            # Reserve the rest of the time for the service's own shutdown after the upload.
            options["finish_timeout"] = max(1.0, 0.75 * seconds)
        # A resumed run continues its history on the server.
        resume = "allow" if self._earlier or self._own else self._arguments.get("resume", "allow")
        given = self._arguments | {"resume": resume if mode == "online" else None}
        run = wandb.init(mode=mode, settings=wandb.Settings(**options), **given)
        with_axes(run)
        files = [*self._earlier, *self._own]
        known = [row for path in files for row in rows(path)]
        if mode == "online":
            for row in known:
                if row["_step"] >= run.starting_step:
                    values = {k: v for k, v in row.items() if not k.startswith("_")}
                    run.log(values, step=row["_step"], commit=True)
                    self._logged += 1
        self._next = max([run.starting_step, *(row["_step"] + 1 for row in known)])
        if self._goes_on:
            for row in known:
                self._seen |= {key: max(self._seen.get(key, -1), row[STEP]) for key in row if STEP in row}
        self._own.append(Path(run.settings.sync_file))
        self._run, self.id, self.mode = run, run.id, mode

    def _report(self) -> None:
        """Print how many logged rows are missing from W&B's files and what was not uploaded."""
        written = sum(count_rows(path) for path in self._own if path.exists())
        self.lost_rows = max(0, self._logged - written)
        if self.lost_rows:
            print(f"W&B: {self.lost_rows} of {self._logged} rows are not in its file: is the disk full?", flush=True)
        if command := self.upload_command:
            what = missing(self._own[-1]) if self._own else "earlier starts of this run"
            print(f"W&B: not uploaded: {what}. Upload it with: {command}", flush=True)

    @property
    def upload_command(self) -> str | None:
        """The command that uploads the rest; None if the server has everything."""
        return upload_command([*self._earlier, *self._own])


def with_axes(run: Any) -> None:
    """Plot the curves over epochs, which are comparable between batch sizes while steps are not.

    ``summary="max,last"`` is not used: it makes the summary's ``val/acc`` a number in a finished run but
    ``{"max", "last"}`` in a stopped one, so that a sweep or plot that reads ``val/acc`` would miss one of the two. Here
    it is always a number: the latest value during training, and the tested checkpoint's value at the end.
    """
    run.define_metric("epoch", hidden=True)
    for curves in ("train/*", "val/*"):
        run.define_metric(curves, step_metric="epoch", step_sync=True)


def plain(error: BaseException) -> str:
    """Return the first line of an error's message, with the API key and passwords in URLs removed."""
    text = (str(error) or type(error).__name__).strip().partition("\n")[0]
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "…")
    return re.sub(r"//[^/@\s]+@", "//…@", text)
