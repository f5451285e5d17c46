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
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lightning_modules.data.files import shown
from lightning_modules.hardware.signals import SIGNALS
from zoo.errors import ConvzooError

CRASHES = [-s for s in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)]
"""Exit codes of a process whose code crashed."""

GONE_S = 5.0
"""Seconds within which a killed process ends, unless it waits for a dead disk."""


class WorkerDied(ConvzooError):
    """A worker process died; the message names the file that it was reading, and the likely cause."""


class WatchedImages(Dataset):
    """Base class of datasets of image files; records which file each worker process is reading.

    Args:
        paths: The files' paths.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.reading = torch.tensor([-1])
        """Index that each worker is reading, or was reading when it died; -1: none. In shared memory."""

    def __len__(self) -> int:
        return len(self.paths)

    def start_reading(self, index: int) -> None:
        """Record, from a worker, the index that it starts to read; -1: none."""
        worker = get_worker_info()
        self.reading[worker.id if worker else 0] = index


class WatchedLoader(DataLoader):
    """A DataLoader of whole batches that knows which files its workers were reading when they died."""

    _all: ClassVar[weakref.WeakSet[WatchedLoader]] = weakref.WeakSet()

    def __init__(self, dataset: WatchedImages, **options: Any) -> None:
        super().__init__(dataset, collate_fn=_as_it_is, **options)
        dataset.reading = torch.full((max(1, self.num_workers),), -1).share_memory_()
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

    def deaths(self) -> list[tuple[int, int]]:
        """Return, for each dead worker, the index that it was reading (-1: none) and its exit code."""
        codes = [process.exitcode for process in self._processes]
        return [(int(self.dataset.reading[worker]), code) for worker, code in enumerate(codes) if code]


def _kill(popen: Any) -> None:
    popen.kill()
    # PyTorch takes this for a crash and raises RuntimeError from its SIGCHLD handler: let it come up here.
    with suppress(RuntimeError):
        popen.wait(GONE_S)


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
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
    """Whether a PyTorch error reports a dead worker process. PyTorch has no class for it, only this text."""
    return str(error).startswith("DataLoader worker (pid")


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Turn PyTorch's error about a dead worker process into a `WorkerDied`.

    PyTorch raises it from a signal handler, so it may come up anywhere in the block.

    Raises:
        WorkerDied: A worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_death(error):
            raise
        deaths = [(loader.dataset.paths, *death) for loader in list(WatchedLoader._all) for death in loader.deaths()]
        file = next((f" while reading {shown(paths[i])}" for paths, i, _ in deaths if i >= 0), "")
        if any(code in CRASHES for *_, code in deaths):
            cause = "A damaged file may have crashed the decoder; data.check=true finds such files."
        else:
            cause = (
                "Probably the system killed it because memory ran out. Type a smaller data.workers (each holds decoded "
                "batches; 0: none), or a smaller data.batch_size."
            )
        said = str(error).splitlines()[0].strip()
        raise WorkerDied(
            f"a worker process died{file}: {said} {cause} The same command resumes from the last checkpoint."
        ) from None


def _as_it_is(batch: Any) -> Any:
    """Return the batch as it is: the datasets make whole batches, so there is nothing to collate."""
    return batch
