"""Prepares a training process before it imports torch: memory allocator, output streams and OpenMP threads."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

_MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 << 20)}
"""Parameters of glibc's ``mallopt``: their numbers and our values. By default, malloc maps fresh memory for every large
tensor, which the kernel zeroes page by page. With these values tensors come from the heap instead, which grows in steps
of 64 MiB and is never returned to the system. PyTorch has no such setting."""


def keep_memory() -> bool:
    """Makes this process keep freed memory and reuse it for later tensors.

    Returns:
        Whether that is in effect; only glibc on Linux supports it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) for number, value in _MALLOPT.values())


class _Output(io.FileIO):
    """An output stream that never raises: it drops output if the reader is gone (``… | head``) or the disk is full."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data) or len(data)  # None: a non-blocking pipe is full
        return len(data)


def keep_output() -> None:
    """Keeps a run alive when its output cannot be written; its result goes to a file anyway."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Leave replaced streams alone, such as those of a test runner.
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw, at_once = _Output(stream.fileno(), "wb", closefd=False), stream.isatty() or name == "stderr"
            buffered = io.BufferedWriter(raw)
            kept = io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=at_once)
            setattr(sys, name, kept)


def prepare(logger: str) -> None:
    """Prepares a process that trains and tracks with ``logger``; call it before importing torch."""
    keep_memory()
    os.environ.update(waiting_threads(os.environ))
    if logger == "wandb":
        # wandb.init imports this module, and pydantic searches all loaded modules for each of its classes: that takes
        # 0.1 s before torch is loaded, 1 s after. It is internal to W&B and may be renamed, hence the suppress.
        with contextlib.suppress(ImportError):
            importlib.import_module("wandb.sdk.launch")


def waiting_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns variables that limit how long idle OpenMP threads spin before they sleep; empty if already set.

    The default of GNU's library, which PyTorch uses on Linux, is milliseconds. On a core shared with another process,
    each of a network's hundreds of small operations then waits that long: MobileNetV2 with two threads on two busy
    cores took 3 and 4 times as long, in two trials.
    """
    given = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment)
    return {} if given else {"GOMP_SPINCOUNT": "10000"}


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment for a fork server, in which nothing may start a thread or initialize a GPU."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # scikit-learn imports pandas where there is one, and pandas pyarrow, whose jemalloc would start a thread.
    one["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    # Checks for a GPU through NVML instead of initializing CUDA.
    return {**environment, **waiting_threads(environment), **one, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
