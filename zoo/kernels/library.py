"""Compiles the C++ kernels for this machine's processor on first use, loads them, and calls them with tensors.

Needs only a C++ compiler, no PyTorch headers. Takes about three seconds; the library is kept in the user's cache
folder. Without a compiler `load` returns None, and PyTorch's own kernels are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from zoo.cache import cache_folder, is_ours
from zoo.devices import processor

HERE = Path(__file__).resolve().parent
SOURCES = ("depthwise.cpp", "norm.cpp", "gate.cpp")
HEADERS = ("vectors.h", "channels.h")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 120
DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of the data; weights, statistics and sums are float32."""

SWITCH = "CONVZOO_KERNELS"
"""The environment variable that turns the kernels off: ``CONVZOO_KERNELS=off``."""


def load() -> ctypes.CDLL | None:
    """Returns the compiled kernels; None if they are not available (see `why_not`)."""
    return _find()[0]


def why_not() -> str | None:
    """Returns why the kernels are not available; None if they are."""
    return _find()[1]


@functools.cache
def _find() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(SWITCH) == "off":
        return None, f"{SWITCH}=off"
    names = (os.environ.get("CXX"), *COMPILERS)
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        return None, f"no C++ compiler ({', '.join(COMPILERS)})"
    # Not linked with an OpenMP of its own: two would compete for the cores. The symbols resolve to PyTorch's OpenMP; if
    # they do not match, the kernels are compiled without it and run on one thread.
    problem = ""
    for openmp in (["-fopenmp"], []):
        try:
            return _library(compiler, openmp), None
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(getattr(error, "stderr", "") or error).strip().partition("\n")[0]
    return None, f"the C++ compiler failed: {problem}"


def _library(compiler: str, openmp: list[str]) -> ctypes.CDLL:
    # PyTorch's OpenMP must be loaded before the library, which it is: torch is imported above.
    target = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = [*FLAGS, target, *openmp]
    content = "".join((HERE / name).read_text() for name in (*SOURCES, *HEADERS))
    # Machines with different processors may share a cache folder.
    key = "\n".join([content, *flags, compiler, processor(), torch.__version__])
    name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    folder = cache_folder("kernels")
    with contextlib.suppress(OSError):  # missing or damaged: it is compiled again
        if folder and is_ours(folder / name):
            return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory(prefix="convzoo-", dir=folder) as work:
        objects = [f"{work}/{source}.o" for source in SOURCES]
        for source, made in zip(SOURCES, objects, strict=True):
            _run([compiler, *flags, "-c", str(HERE / source), "-o", made])
        _run([compiler, "-shared", *objects, "-o", f"{work}/{name}"])
        library = ctypes.CDLL(f"{work}/{name}")
        if folder:
            # Regardless of the umask: a library that other users can write to is not loaded.
            Path(work, name).chmod(0o700)
            Path(work, name).replace(folder / name)
        return library


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Returns the tensor in channels-last memory format, without a copy if it already is."""
    return x.contiguous(memory_format=torch.channels_last)


def fits_kernels(x: torch.Tensor, channels: int, *weights: torch.Tensor | None) -> bool:
    """Returns whether the kernels can process these: images with that many channels, float32 weights, all on the CPU.

    Excluded are tensors without values in memory: under tracing or compilation, and subclasses of Tensor (such as fake
    tensors). Excluded, too, are dispatch modes (which count operations, for example): they would not see the kernels.

    Args:
        x: (N, C, H, W).
        channels: The expected C.
        *weights: Weights and statistics, or None.
    """
    if (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or type(x) not in (torch.Tensor, nn.Parameter)
    ):
        return False
    fits = x.ndim == 4 and x.shape[1] == channels and x.numel() > 0 and x.device.type == "cpu" and x.dtype in DTYPES
    return fits and all(w is None or (w.dtype == torch.float32 and w.device.type == "cpu") for w in weights)


def call(name: str, data: torch.Tensor, *arguments: Any) -> None:
    """Runs a kernel with: whether ``data`` is bfloat16, the arguments, and the number of threads.

    Args:
        name: Name of the C++ function.
        data: A tensor with the data's dtype.
        *arguments: Tensors (passed as addresses), structures (by reference), integers and None.
    """
    passed = [_passed(a) for a in arguments]
    half, threads = ctypes.c_int(data.dtype == torch.bfloat16), ctypes.c_int(torch.get_num_threads())
    getattr(load(), name)(half, *passed, threads)


def _passed(argument: Any) -> Any:
    if argument is None:
        return None
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_long(argument)
