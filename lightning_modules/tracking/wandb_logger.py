"""Track a run with Weights & Biases, online or offline."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_modules.tracking.base import Outcome, RunLogger
from lightning_modules.tracking.wandb_files import STEP
from lightning_modules.tracking.wandb_thread import WandbThread
from lightning_modules.tracking.wandb_upload import missing, upload_command
from zoo.log import log

GRACE_S = 5.0
"""Seconds to finish the local file once the time for the server is over."""


class WandbLogger(RunLogger):
    """Logs to W&B without waiting for it, except at the start and at the end of the run.

    Args:
        arguments: Arguments of ``wandb.init``, including ``id`` and ``dir``.
        online: Whether to contact the server.
        timeout_s: Total seconds to wait for the server, at the start and at the end together.
    """

    def __init__(self, arguments: dict[str, Any], online: bool, timeout_s: float) -> None:
        super().__init__()
        self._id, self._timeout_s = arguments["id"], timeout_s
        self._thread = WandbThread(arguments, online, timeout_s)
        with suppress(Exception):  # a broken installation is reported by the thread
            importlib.import_module("wandb")  # before the clock starts: importing is no wait for the server
        begin = time.monotonic()
        self._thread.start()
        if not self._thread.opened.wait(timeout_s if online else min(timeout_s, GRACE_S)) and self._thread.online:
            self._thread.go_offline(f"the server did not answer within {timeout_s:g} s")
        self._left_s = max(timeout_s - (time.monotonic() - begin), timeout_s / 4)
        self.entry = {"wandb": self._describe()}

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self._id

    def _describe(self, lost: int = 0) -> dict[str, Any]:
        """Return ``wandb`` of result.json; ``upload`` is the command that uploads what the server lacks."""
        starts = [*self._thread.earlier, *self._thread.own]
        dirs = [str(path.parent) for path in starts]
        found = {"id": self._id, "mode": self._thread.mode, "dir": dirs[-1] if dirs else None, "dirs": dirs}
        return found | {"upload": upload_command(starts), "lost_rows": lost}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._thread.add(dict(metrics) if step is None else {**metrics, STEP: step})

    def finish(self, outcome: Outcome) -> None:
        """Log the last row, end the run, and report what was not written or not uploaded."""
        thread = self._thread
        # val/acc is a curve in the history; its value for the tested checkpoint belongs in the summary only.
        if row := {key: value for key, value in outcome.metrics.items() if key != "val/acc"}:
            self.log_metrics(row)
        thread.end(outcome)
        thread.join(self._left_s if thread.online else max(self._left_s, GRACE_S))
        if thread.is_alive():
            thread.go_offline(f"the server did not take everything within {self._timeout_s:g} s")
            thread.join(GRACE_S)
        lost, logged = thread.lost()
        self.entry = {"wandb": self._describe(lost)}
        if lost > thread.refused:
            why = "is the disk full?" if thread.own else "it did not start"
            log.warning(f"W&B: {lost} of {logged} rows are not in its file: {why}")
        if command := self.entry["wandb"]["upload"]:
            why = ", as the run is offline" if thread.mode == "offline" else ""
            log.warning(f"W&B: not uploaded: {missing([*thread.earlier, *thread.own])}{why}. Upload it with: {command}")
