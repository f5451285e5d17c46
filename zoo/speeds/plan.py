"""Execution plans: how a network is computed (precision, memory format, kernels, compilation), and the fastest one."""

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
    """One way to compute a network.

    Attributes:
        name: Its name in the configuration.
        what: A description.
        bf16: Convolutions and matrix products in bfloat16 (autocast); weights and their updates stay float32.
        channels_last: Memory format of the network and its images: channels last, or contiguous.
        own_kernels: Use `zoo.kernels`; CPU only.
        compiled: Use torch.compile, with CUDA graphs on a GPU. Takes minutes before the first step.
    """

    name: str
    what: str
    bf16: bool = False
    channels_last: bool = True
    own_kernels: bool = False
    compiled: bool = False

    def apply(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Applies the plan to a network in place; parameters, their names and the state_dict stay the same.

        Args:
            net: The network, on any device.
            device: The device that it will run on.

        Returns:
            The same network.
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
        """Returns the context for forward passes."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


def use_fast_float32(device: torch.device) -> None:
    """On a GPU, enables TF32 for float32 products and lets cuDNN search the fastest convolution for each shape."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


PLAIN = Plan("plain", "float32, contiguous: PyTorch as it comes", channels_last=False)
"""The baseline of comparisons; no run uses it."""

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
"""Candidates on a CPU; for each precision, the usual winner first."""

CUDA = ("bf16", "fp32")
COMPILED = {"bf16": "bf16_compiled", "fp32": "fp32_compiled"}

COMPILE_S = 1200.0
"""Seconds that a run on a GPU has to take at least, to make compiling worthwhile."""


def candidates(device: torch.device, bf16: bool | None = None) -> list[Plan]:
    """Returns the plans worth trying on a device, the usual winner first.

    All of them have the same precision, so that timing never changes results and the cells of a sweep are comparable.

    Args:
        device: The device that the network runs on.
        bf16: Plans in bfloat16, or plans in float32; None: bfloat16 if the device computes in it natively.
    """
    names = CUDA if device.type == "cuda" else CPU
    wanted = has_bf16(device) if bf16 is None else bf16
    return [PLANS[name] for name in names if PLANS[name].bf16 == wanted]


def compiled(plan: Plan, device: torch.device, seconds: float) -> Plan | None:
    """Returns the compiled version of a plan, or None if not worth trying: on a CPU, or in a run under `COMPILE_S`."""
    return PLANS[COMPILED[plan.name]] if device.type == "cuda" and seconds >= COMPILE_S else None


def has_bf16(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 matrices natively; emulation is far slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    flags = processor().split()
    wanted = ("bf16",) if platform.machine() == "aarch64" else ("avx512_bf16", "amx_bf16")
    return any(flag in flags for flag in wanted)


def training_step(net: nn.Module, plan: Plan, images: torch.Tensor, classes: int) -> Callable[[], None]:
    """Makes a training step (forward, loss, backward) of a copy of the network under a plan.

    Args:
        net, images, classes: As for `training_steps`.
        plan: How to compute it.

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
    """Makes a training step for each plan that works on this machine, and runs each step once.

    Args:
        net: The network. Copies of it are trained; it is not changed.
        plans: Candidates. A plan that fails, for example without a compiler, is left out.
        images: One batch (N, C, H, W), on the device.
        classes: Number of classes of the network.

    Returns:
        Plan name → step.

    Raises:
        ConvzooError: No plan works.
    """
    steps, problems, errors = {}, [], []
    for plan in plans:
        try:
            step = training_step(net, plan, images, classes)
            step()
            steps[plan.name] = step
        except Exception as error:  # A backend may raise anything; the other plans may still work.
            problems.append(f"{plan.name}: {error}")
            errors.append(error.with_traceback(None))  # The traceback's frames keep memory alive.
    if not steps:
        raise ConvzooError("no execution plan works here: " + "; ".join(problems)) from ExceptionGroup("plans", errors)
    return steps


def fastest(
    steps: Mapping[str, Callable[[], None]], device: torch.device, seconds: float
) -> tuple[Plan, dict[str, Spread]]:
    """Measures the steps of all plans in turn, for about ``seconds``.

    Returns:
        The fastest plan, and the seconds per step of each plan.
    """
    measured = compare(steps, device, seconds)
    return PLANS[min(measured, key=lambda name: measured[name].median)], measured
