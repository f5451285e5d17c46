"""Track which file each DataLoader worker is reading, and explain the death of a worker."""

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
"""Seconds within which a killed process ends, unless it waits for a dead disk."""


class WorkerProgress:
    """Records which file each worker process is reading, in shared memory that outlives the worker.

    Args:
        workers: Number of worker processes; 0: the files are read in this process.
    """

    def __init__(self, workers: int) -> None:
        self._at = torch.full((max(1, workers),), -1).share_memory_()

    def take(self, index: int) -> None:
        """Record, from a worker, the index that it starts to read; -1: none."""
        worker = get_worker_info()
        self._at[worker.id if worker else 0] = index

    def of(self, worker: int) -> int | None:
        """Return the index that a worker is reading, or was reading when it died; None if there is none."""
        index = int(self._at[worker])
        return None if index < 0 else index


class WatchedLoader(DataLoader):
    """A DataLoader that knows which files its workers were reading when they died.

    Args:
        dataset: Dataset that records each index in its ``in_hand``, a `WorkerProgress` that is set here.
        paths: The files' paths, by index.
        options: Options of `torch.utils.data.DataLoader`.
    """

    _all: ClassVar[weakref.WeakSet[WatchedLoader]] = weakref.WeakSet()

    def __init__(self, dataset: Any, paths: Sequence[str], **options: Any) -> None:
        super().__init__(dataset, collate_fn=_as_they_are, **options)
        self.paths = paths
        dataset.in_hand = WorkerProgress(self.num_workers)
        self._processes: list[Any] = []
        self._all.add(self)

    def _get_iterator(self) -> Any:
        # Schedulers and terminals signal all processes of a job, but the run must stop its workers itself, after its
        # last step. The workers therefore inherit a mask that blocks these signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            batches = super()._get_iterator()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes = getattr(batches, "_workers", [])
        for process in self._processes:
            # PyTorch, and Python at exit, stop a stuck worker with SIGTERM, which is blocked: use SIGKILL.
            process._popen.terminate = partial(_kill, process._popen)
        return batches

    def of_the_dead(self) -> list[int]:
        """Return the indices that dead workers were reading."""
        dead = [i for i, process in enumerate(self._processes) if process.exitcode]
        return [index for i in dead if (index := self.dataset.in_hand.of(i)) is not None]


def _kill(popen: Any) -> None:
    popen.kill()
    # PyTorch takes this for a crash and raises RuntimeError from its SIGCHLD handler: let it come up here.
    with suppress(RuntimeError):
        popen.wait(GONE_S)


@contextmanager
def decoders_words() -> Iterator[Callable[[], str]]:
    """Capture what C decoders write to stderr in a worker process, since they do not name the file they complain about.

    Outside a worker process nothing is captured.

    Yields:
        A function that returns what has been written so far.
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
    """Whether a PyTorch error reports a dead worker process."""
    return str(error).startswith("DataLoader worker (pid")


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Turn PyTorch's error about a dead worker process into a ConvzooError that names the file and likely cause.

    PyTorch raises it from a signal handler, so it may come up anywhere in the block.

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
    """Return the batch as it is: the datasets make whole batches, so there is nothing to collate."""
    return batch
