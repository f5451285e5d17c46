"""What a process that trains does before it imports torch, and a setting that PyTorch has not: how memory is kept."""

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
"""glibc's numbers and ours. By default a large tensor is fresh memory from the kernel each time, which fills it with
zeros page by page; so it comes from the heap, which grows by 64 MiB and is never given back."""


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees, for the next tensor of that size.

    Returns:
        Whether it does: only Linux's glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) for number, value in _MALLOPT.values())


class _Output(io.FileIO):
    """A stream that cannot stop a run: where nobody reads it (``… | head``), or its disk is full, it is silent."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data) or len(data)  # None: a pipe that does not wait is full
        return len(data)


def keep_output() -> None:
    """Lets a run go on where what it prints cannot be written: it has its result in a file."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # What is not Python's own stream is somebody else's, a test's for example.
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw, at_once = _Output(stream.fileno(), "wb", closefd=False), stream.isatty() or name == "stderr"
            buffered = io.BufferedWriter(raw)
            kept = io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=at_once)
            setattr(sys, name, kept)


def prepare(logger: str) -> None:
    """To be called before torch is imported, in a process that trains and tracks with ``logger``."""
    keep_memory()
    os.environ.update(waiting_threads(os.environ))
    if logger == "wandb":
        # wandb.init imports this, and pydantic looks through all modules for each class there: 0.1 s before there are
        # torch's, 1 s afterwards. It is W&B's own affair, and may be called otherwise in another version.
        with contextlib.suppress(ImportError):
            importlib.import_module("wandb.sdk.launch")


def waiting_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """How long OpenMP's threads (GNU's library, which PyTorch has on Linux) look for work before they sleep.

    By default for milliseconds. Where another process needs the core, each of a network's hundreds of small steps then
    waits that long: MobileNetV2 with two threads on two busy cores took 3 and 4 times as long, in two tries.
    """
    given = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment)
    return {} if given else {"GOMP_SPINCOUNT": "10000"}


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process is started with that others are forked from: nothing in it may start a thread, or a GPU."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Whether there is a GPU is asked of the driver's library, not by starting CUDA.
    return {**environment, **waiting_threads(environment), **one, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
