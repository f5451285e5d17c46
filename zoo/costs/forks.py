"""Many calls in several processes at once."""

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
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextmanager
def mapped(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Iterable[Result]]:
    """``function`` of each item, in order: ``with mapped(…) as results: for result in results: …``.

    Args:
        processes: How many; each is a fork of this one, which has all imports already. They start before the ``with``
            block does, so that no thread that is started in there is forked. With one, or where the system cannot
            fork, everything is called here.
    """
    processes = min(processes, len(items))
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield map(function, items)
        return
    # Ctrl-C is for this process to answer.
    quiet = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), quiet)
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
