"""Execution plans: how a network is computed, not what. Precision, memory format, kernels, compilation."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from zoo import kernels
from zoo.devices import processor
from zoo.errors import ConvzooError
from zoo.speeds.timing import Spread, compare


@dataclass(frozen=True)
class Plan:
    """One way of computing a network.

    Attributes:
        name: How the configuration calls it.
        what: In words.
        bf16: Convolutions and matrix products in bfloat16 (autocast); weights and their updates stay float32.
        channels_last: The memory format of the network and its images.
        own_kernels: `zoo.kernels`; on the CPU only.
        compiled: torch.compile; with CUDA graphs on a GPU. It takes minutes before the first step.
    """

    name: str
    what: str
    bf16: bool = False
    channels_last: bool = True
    own_kernels: bool = False
    compiled: bool = False

    def apply(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Makes a network follow the plan, in place; it keeps its parameters, their names and its state_dict.

        Args:
            net: On whatever device it is now.
            device: Where it will run.
        """
        kernels.restore(net)
        net.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
        if self.own_kernels:
            kernels.speed_up(net)
        elif self.bf16:
            kernels.trim(net)
        use_fast_float32(device)
        if self.compiled:
            net.compile(mode="reduce-overhead" if device.type == "cuda" else None)
        return net

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context that forward passes run in."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


def use_fast_float32(device: torch.device) -> None:
    """On a GPU what stays float32 is multiplied in TF32, and the fastest convolution is searched for each shape."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


PLAIN = Plan("plain", "float32, contiguous: PyTorch as it comes", channels_last=False)
"""What the others are compared with; no run of ours uses it."""

PLANS = {
    plan.name: plan
    for plan in (
        Plan("fp32", "float32 (TF32 on a GPU), channels last"),
        Plan("fp32_fast", "float32, channels last, own kernels", own_kernels=True),
        Plan("fp32_compiled", "float32 (TF32 on a GPU), channels last, torch.compile", compiled=True),
        Plan("bf16", "bfloat16, channels last", bf16=True),
        Plan("bf16_fast", "bfloat16, channels last, own kernels", bf16=True, own_kernels=True),
        Plan("bf16_compiled", "bfloat16, channels last, torch.compile", bf16=True, compiled=True),
    )
}

CPU = ("bf16_fast", "bf16", "fp32_fast", "fp32")
"""What may be chosen on a CPU; of each precision the usual winner first."""

CUDA = ("bf16", "fp32")
COMPILED = {"bf16": "bf16_compiled", "fp32": "fp32_compiled"}

COMPILE_S = 1200.0
"""A run on a GPU that would take this many seconds is worth compiling for."""


def candidates(device: torch.device, bf16: bool | None = None) -> list[Plan]:
    """The plans worth trying on a device, the usual winner first.

    Args:
        device: Where the network runs.
        bf16: Plans in bfloat16, or those in float32; None: bfloat16 where the processor computes in it. They have one
            precision, so that no stopwatch decides what is computed, and the cells of a sweep compare.
    """
    names = CUDA if device.type == "cuda" else CPU
    wanted = has_bf16(device) if bf16 is None else bf16
    return [PLANS[name] for name in names if PLANS[name].bf16 == wanted]


def compiled(plan: Plan, device: torch.device, seconds: float) -> Plan | None:
    """The same plan compiled, where the run is so long that it is worth trying: on a GPU only."""
    return PLANS[COMPILED[plan.name]] if device.type == "cuda" and seconds >= COMPILE_S else None


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself: emulated, it is far slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    flags = processor().split()
    wanted = ("bf16",) if platform.machine() == "aarch64" else ("avx512_bf16", "amx_bf16")
    return any(flag in flags for flag in wanted)


def training_step(net: nn.Module, plan: Plan, images: torch.Tensor, classes: int) -> Callable[[], None]:
    """A step of a copy of the network under a plan: forward, loss and backward, on images that are there.

    Returns:
        A function without arguments.
    """
    device = images.device
    net = plan.apply(copy.deepcopy(net).to(device), device).train()
    images = images.contiguous(memory_format=torch.channels_last if plan.channels_last else torch.contiguous_format)
    labels = torch.arange(len(images), device=device) % classes

    def step() -> None:
        with plan.autocast(device):
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        net.zero_grad()

    return step


def training_steps(
    net: nn.Module, plans: Sequence[Plan], images: torch.Tensor, classes: int
) -> dict[str, Callable[[], None]]:
    """A step of each plan that works here; each has run once.

    Args:
        net: The network; copies of it are trained, it stays as it is.
        plans: Candidates. One that fails (a compiler that is not there) is left out.
        images: (N, C, H, W), as many as a batch has, on the device.
        classes: Of the network's output.

    Raises:
        ConvzooError: None of them works.
    """
    steps, problems, errors = {}, [], []
    for plan in plans:
        try:
            step = training_step(net, plan, images, classes)
            step()
            steps[plan.name] = step
        except Exception as error:  # whatever a backend raises: the others are still there
            problems.append(f"{plan.name}: {error}")
            errors.append(error.with_traceback(None))  # whose frames hold the memory
    if not steps:
        raise ConvzooError("no execution plan works here: " + "; ".join(problems)) from ExceptionGroup("plans", errors)
    return steps


def fastest(
    steps: Mapping[str, Callable[[], None]], device: torch.device, seconds: float
) -> tuple[Plan, dict[str, Spread]]:
    """Measures some steps of each plan, in turn, for about so many seconds.

    Returns:
        The fastest plan, and the seconds a step of each.
    """
    measured = compare(steps, device, seconds)
    return PLANS[min(measured, key=lambda name: measured[name].median)], measured
