"""Maps a function over items in several forked processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextmanager
def mapped(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Iterable[Result]]:
    """Applies ``function`` to each item, in order: ``with mapped(…) as results: for result in results: …``.

    Args:
        function: Must be picklable, like its items and results.
        items: Arguments, one call each.
        processes: Number of processes. Each is a fork of this one, with all imports done. They start before the
            ``with`` block, so that no thread started inside it is forked. With one process, or on a system without
            fork, the calls run in this process.

    Yields:
        The results.
    """
    processes = min(processes, len(items))
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield map(function, items)
        return
    # Only this process handles Ctrl-C.
    quiet = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), quiet)
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
