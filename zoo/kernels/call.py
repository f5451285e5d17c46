"""Calls a compiled kernel with tensors."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from zoo.kernels import library

DTYPES = (torch.float32, torch.bfloat16)
"""Of the data; weights, statistics and sums are float32."""


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same values, channels last in memory; nothing is copied where they are already."""
    return x.contiguous(memory_format=torch.channels_last)


def fits_kernels(x: torch.Tensor, channels: int, *weights: torch.Tensor | None) -> bool:
    """Whether the kernels can have these: images with that many channels, float32 weights, all in this memory.

    What is traced or compiled has no values yet; subclasses of Tensor (fake ones, among others) have none of their own.
    Who watches the operations (to count them, say) would not see these.
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
    """Runs a kernel; it is told whether ``data`` is bfloat16, the arguments, and how many threads it has.

    Args:
        name: The function's.
        data: Its first tensor.
        *arguments: Tensors (their addresses are passed), structures (by reference), whole numbers and None.
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
