"""Maps a function over items in several forked processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def mapped(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Iterable[Result]]:
    """Applies ``function`` to each item, in order: ``with mapped(…) as results: for result in results: …``.

    Args:
        function: Must be picklable, like its items and results.
        items: Arguments, one call each.
        processes: Number of processes. Each is a fork of this one, with all imports done. They start before the
            ``with`` block, so that no thread started inside it is forked. With one process, or on another
            system than Linux, the calls run in this process.

    Yields:
        The results.
    """
    processes = min(processes, len(items))
    if processes < 2 or sys.platform != "linux":  # a fork of a process with threads is not safe elsewhere
        yield map(function, items)
        return
    # Only this process handles Ctrl-C.
    quiet = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), quiet)
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
