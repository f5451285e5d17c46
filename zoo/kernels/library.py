"""Compiles the kernels for this machine's processor when they are first needed, and loads them.

A C++ compiler is all they need (no headers of PyTorch's, about two seconds, kept in the user's cache folder). Where
there is none, `load` returns None and PyTorch's own kernels stay.
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

from zoo.cache import cache_folder

HERE = Path(__file__).resolve().parent
SOURCES = ("depthwise.cpp", "norm.cpp", "gate.cpp")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 120


@functools.cache
def load() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had (`why_not` says why)."""
    library, _ = _find()
    return library


def why_not() -> str | None:
    """Why there are no kernels; None where there are."""
    return _find()[1]


@functools.cache
def _find() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("CONVZOO_KERNELS") == "off":
        return None, "CONVZOO_KERNELS=off"
    compiler = next(
        (found for name in (os.environ.get("CXX"), *COMPILERS) if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        return None, f"no C++ compiler ({', '.join(COMPILERS)})"
    # OpenMP is left to be found in the process: PyTorch has brought one, and two would fight for the cores.
    problem = ""
    for openmp in (["-fopenmp"], []):
        try:
            return ctypes.CDLL(str(_compiled(compiler, openmp))), None
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(getattr(error, "stderr", "") or error).strip().partition("\n")[0]
    return None, f"the C++ compiler failed: {problem}"


def _compiled(compiler: str, openmp: list[str]) -> Path:
    """The library's file, made if need be."""
    import torch  # its OpenMP must be there before the library asks for one

    target = ["-mcpu=native"] if platform.machine() in ("arm64", "aarch64") else ["-march=native"]
    flags = [*FLAGS, *target, *openmp]
    content = "".join((HERE / name).read_text() for name in (*SOURCES, "vectors.h"))
    # A cache folder may be shared by machines with different processors.
    key = "\n".join([content, *flags, compiler, _processor(), torch.__version__])
    folder = cache_folder("kernels")
    name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if folder and (folder / name).is_file():
        return folder / name
    # Loaded from there once and for all: the folder is not needed afterwards.
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="convzoo-", dir=folder))
        stack.callback(shutil.rmtree, work, ignore_errors=True) if folder else None
        objects = []
        for source in SOURCES:
            objects.append(str(work / f"{source}.o"))
            _run([compiler, *flags, "-c", str(HERE / source), "-o", objects[-1]])
        _run([compiler, "-shared", *objects, "-o", str(work / name)])
        if folder is None:
            return work / name
        (work / name).replace(folder / name)
        return folder / name


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return (
        "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
        or platform.processor()
    )
