"""Worker processes that read files: what each has in hand, and what to say when one dies."""

from __future__ import annotations

import os
import signal
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, get_worker_info

from lightning_modules.data.files import shown
from lightning_modules.hardware.signals import SIGNALS
from zoo.errors import ConvzooError

CRASHES = ("Segmentation fault", "Bus error", "Aborted", "Illegal instruction", "Floating point exception")

GONE_S = 5.0
"""Seconds within which a process that was killed is gone, but for one that waits for a dead disk."""


class WorkerProgress:
    """Which file each worker process is busy with, in memory that outlives the worker.

    Args:
        workers: Number of processes; 0: the files are read in this one.
    """

    def __init__(self, workers: int) -> None:
        self._at = torch.full((max(1, workers),), -1).share_memory_()

    def take(self, index: int) -> None:
        """A worker says what it begins with; -1: nothing."""
        worker = get_worker_info()
        self._at[worker.id if worker else 0] = index

    def of(self, worker: int) -> int | None:
        """What a worker has, or had when it died."""
        index = int(self._at[worker])
        return None if index < 0 else index


class WatchedLoader(DataLoader):
    """A DataLoader that knows which files its workers had when they died.

    Args:
        dataset: Has ``in_hand`` (set here) and says there with which index it begins.
        paths: By index.
    """

    _all: ClassVar[weakref.WeakSet[WatchedLoader]] = weakref.WeakSet()

    def __init__(self, dataset: Any, paths: Sequence[str], **options: Any) -> None:
        super().__init__(dataset, collate_fn=_as_they_are, **options)
        self.paths = paths
        dataset.in_hand = WorkerProgress(self.num_workers)
        self._processes: list[Any] = []
        self._all.add(self)

    def _get_iterator(self) -> Any:
        # Schedulers and terminals signal every process there is. The run ends its workers itself, after its last step,
        # so they inherit that these signals are blocked, and never see one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            batches = super()._get_iterator()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes = getattr(batches, "_workers", [])
        for process in self._processes:
            # What ends a stuck worker, in PyTorch and when Python exits, is SIGTERM.
            process._popen.terminate = partial(_kill, process._popen)
        return batches

    def of_the_dead(self) -> list[int]:
        """Indices that workers had in hand when they died."""
        dead = [i for i, process in enumerate(self._processes) if process.exitcode]
        return [index for i in dead if (index := self.dataset.in_hand.of(i)) is not None]


def _kill(popen: Any) -> None:
    popen.kill()
    # PyTorch takes it for a crash, and raises that from the signal handler: here, where it is expected.
    with suppress(RuntimeError):
        popen.wait(GONE_S)


@contextmanager
def decoders_words() -> Iterator[Callable[[], str]]:
    """Keeps what decoders in C write to the terminal of a worker process; yields what they have written so far.

    They do not know which file they speak of. In a process that does more than decode nothing is kept.
    """
    if get_worker_info() is None:
        yield str
        return
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), 10_000, 0).decode(errors="replace").strip()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def is_death(error: RuntimeError) -> bool:
    """Whether PyTorch means a worker process that is gone."""
    return str(error).startswith("DataLoader worker (pid")


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Tells a worker process's death as what it is. PyTorch raises from a signal handler: it comes up anywhere.

    Raises:
        ConvzooError: A worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_death(error):
            raise
        files = [shown(loader.paths[i]) for loader in list(WatchedLoader._all) for i in loader.of_the_dead()]
        over, said = f" over {files[0]}" if files else "", str(error).splitlines()[0].strip()
        text = f"a process that reads images died{over}: {said} "
        if any(crash in text for crash in CRASHES):
            text += "A damaged file may have crashed the decoder: data.check=true finds those."
        else:
            text += (
                "Probably the memory ran out and the system killed it. Type a smaller data.workers (each holds decoded "
                "batches; 0: none), or a smaller data.batch_size."
            )
        raise ConvzooError(f"{text} The same command goes on from the last checkpoint.") from None


def _as_they_are(batch: Any) -> Any:
    """The datasets make whole batches: a DataLoader has nothing to collate."""
    return batch
