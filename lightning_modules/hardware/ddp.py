"""Launches the ranks of a distributed job on this machine, and ends them all when one fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.hardware.oom_watch import OomWatch
from lightning_modules.hardware.signals import CODES, Stopped, StopSignals
from zoo.devices import cores
from zoo.errors import ConvzooError

POLL_S = 0.1

FAILED_S = 10.0
"""Grace period for the other ranks after one failed: to notice it and to clean up."""

STOPPED_S = 60.0
"""Grace period for the ranks of a stopped job: to write their checkpoint and to clean up."""

USER_ERROR = 2
"""Exit code of a rank that ended with a `ConvzooError`."""

PARENT = "CONVZOO_PARENT"
"""Environment variable with the process id of the launcher: ranks exit when it is gone."""


class _Rank:
    """One rank's process, in a session of its own, so that its child processes can be killed with it."""

    def __init__(self, number: int, words: Sequence[str], environment: dict[str, str], report: Path) -> None:
        self.number, self.report = number, report
        own = {"RANK": str(number), "LOCAL_RANK": str(number), "TORCHELASTIC_ERROR_FILE": str(report)}
        self.process = subprocess.Popen(words, env=environment | own, start_new_session=True)

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def error(self) -> str | None:
        """The error saved by ``record`` of `torch.distributed.elastic`: ``TYPE: text``, or None."""
        try:
            message = json.loads(self.report.read_text())["message"]
        except (OSError, ValueError, KeyError):
            return None
        return str(message["message"] if isinstance(message, dict) else message)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def launch_ranks(processes: int, signals: StopSignals, module: str, *arguments: str | Path) -> None:
    """Runs ``python -m module arguments`` once per rank, as torchrun would, and waits for all ranks.

    When a rank fails, the others end too: on their own if they notice it, else killed after ``FAILED_S``. (The
    launcher of `torch.distributed` stops them at once with the signal that means an interruption here.)

    Args:
        processes: Number of ranks.
        signals: The signals that stop the job; they are forwarded to the ranks.
        module: The module to run.
        *arguments: Its command-line arguments.

    Raises:
        ConvzooError: A rank reported a user error, or ended without reporting one; the text says which and how.
        RuntimeError: A rank failed; the text says which and why.
        SystemExit: The job received a signal or reached its time limit; the ranks have ended, and the code is one of
            `lightning_modules.hardware.signals.CODES`.
    """
    from torch.distributed import TCPStore

    # The rendezvous store. Hosted here, not in rank 0, so that the port is known before the ranks start.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "convzoo",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        PARENT: str(os.getpid()),
    }
    # Oversubscribing a core costs far more than leaving one idle, hence the floor division.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    words = [sys.executable, "-m", module, *map(str, arguments)]
    watch, ranks = OomWatch(), []
    signals.wait = True
    signals.install()
    try:
        if signals.pending is not None:
            raise Stopped(signals.pending)
        with tempfile.TemporaryDirectory() as folder:
            try:
                for number in range(processes):
                    ranks.append(_Rank(number, words, environment, Path(folder, f"{number}.json")))
                failed = _wait(ranks, signals)
            finally:
                for rank in ranks:
                    rank.kill()
            if failed:
                raise _cause(failed, processes, watch)
    except Stopped as stopped:
        raise SystemExit(stopped.code) from None
    finally:
        signals.restore()


def _wait(ranks: list[_Rank], signals: StopSignals) -> list[_Rank]:
    """Waits until all ranks have ended or the grace period is over; returns the failed ranks in order of failure."""
    failed: list[_Rank] = []
    forwarded, deadline = False, float("inf")
    while running := [rank for rank in ranks if rank.code is None]:
        if signals.pending and not forwarded:
            forwarded, deadline = True, time.monotonic() + STOPPED_S
            for rank in running:
                rank.process.send_signal(signals.pending)
        # A rank that has reported its error may still be waiting for the others at its exit.
        new = [rank for rank in ranks if (rank.code or rank.error) and rank not in failed]
        if new and not failed:
            stopped = all(rank.code in CODES for rank in new)
            deadline = min(deadline, time.monotonic() + (STOPPED_S if stopped else FAILED_S))
        failed += new
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    failed += [rank for rank in ranks if rank.code and rank not in failed]
    if signals.pending and (running or failed):
        raise Stopped(signals.pending)
    return failed


def _cause(failed: list[_Rank], processes: int, watch: OomWatch) -> BaseException:
    """Returns the error of the rank that failed first, as what the job is to raise.

    Args:
        failed: The failed ranks in the order in which they were seen to fail, all ended.
        processes: Number of all ranks.
        watch: Started before the ranks.
    """
    reports = {rank: error for rank in failed if (error := rank.error) is not None}
    if not reports and all(rank.code == -signal.SIGABRT for rank in failed):
        return RuntimeError(
            f"rank {failed[0].number} of {processes} gave up waiting for another rank (hardware.timeout_s), or "
            "crashed; see its output above."
        )
    reported = False
    for rank in failed:
        reported |= rank in reports
        # A rank that ended without a report failed first: the others report that they lost it. The exception is a
        # rank that NCCL aborted for waiting too long for one that had reported an error.
        if rank not in reports and not (reported and rank.code == -signal.SIGABRT):
            return _silent_end(rank, processes, watch)
    first = min(reports, key=lambda rank: rank.report.stat().st_mtime_ns)
    kind, _, text = reports[first].partition(": ")
    if first.code == USER_ERROR:
        return ConvzooError(text)
    late = " (another rank did not answer within hardware.timeout_s)" if "timed out" in text.lower() else ""
    return RuntimeError(f"rank {first.number} of {processes} failed: {kind}: {text}{late}")


def _silent_end(rank: _Rank, processes: int, watch: OomWatch) -> BaseException:
    code = rank.code or 0
    if code in CODES:
        return SystemExit(code)
    how = f"ended with exit code {code} and without an error message"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += f": {watch.why()}"
    return ConvzooError(f"rank {rank.number} of {processes} {how}. The other ranks were stopped.")
