"""Calls a compiled kernel with tensors."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from zoo.kernels import library

DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of the data; weights, statistics and sums are float32."""


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
    getattr(library.load(), name)(half, *passed, threads)


def _passed(argument: Any) -> Any:
    if argument is None:
        return None
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_long(argument)
