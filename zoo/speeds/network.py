"""Measures the speed of a network on one device: inference and training, one image and a batch, phases of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import torch
from torch import nn

from zoo.meta import buffers_kept, in_mode
from zoo.speeds.memory import Memory, peak_memory
from zoo.speeds.timing import BLOCKS, FEWEST, Spread, measure, synchronize

PHASES = ("forward", "loss", "backward", "optimizer")

Context = Callable[[], AbstractContextManager]
"""Makes the context of one forward pass: ``lambda: torch.autocast("cpu", torch.bfloat16)``. It is entered for every
pass, as in training: one autocast around several passes would cast the weights only once and look too fast."""


@dataclass(frozen=True)
class Speed:
    """Inference speed of a network on one device.

    Attributes:
        images_per_s: Images/s of forward passes at ``batch_size``.
        latency_ms: Milliseconds for one image.
        device, dtype, batch_size: Conditions of the measurement; ``dtype`` is that of the images.
        memory: Peak memory of the forward passes at ``batch_size``.
    """

    images_per_s: Spread
    latency_ms: Spread
    device: str
    dtype: str
    batch_size: int
    memory: Memory


@dataclass(frozen=True)
class TrainingSpeed:
    """Training speed of a network on one device, with the images already there.

    Attributes:
        images_per_s: Images/s of whole steps at ``batch_size``: forward, loss, backward, optimizer.
        phases_ms: Milliseconds of each of `PHASES`, for one batch. Measured separately, with a synchronisation after
            each phase: on a GPU, where phases otherwise overlap, their sum is more than a step.
        step_ms: Milliseconds of a step with one image; None if the network cannot train on one (BatchNorm on a 1×1
            map).
        device, dtype, batch_size: Conditions of the measurement.
        memory: Peak memory of training, including activations, gradients and optimizer state.
    """

    images_per_s: Spread
    phases_ms: dict[str, Spread]
    step_ms: Spread | None
    device: str
    dtype: str
    batch_size: int
    memory: Memory


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The default optimizer of the measurements."""
    return torch.optim.AdamW(parameters, fused=True)


def speed(
    net: nn.Module,
    image: torch.Tensor,
    batch_size: int = 64,
    seconds: float = 1.0,
    *,
    autocast: Context = nullcontext,
    memory_format: torch.memory_format = torch.channels_last,
) -> Speed:
    """Measures inference in eval mode, with the images already on the device.

    Args:
        net: A network that takes (N, C, H, W). Its mode is restored afterwards.
        image: One image (C, H, W), on the device and in the dtype to measure.
        batch_size: Images per forward pass for ``images_per_s``; ``latency_ms`` is always for one image.
        seconds: Approximate time of each of the two measurements.
        autocast: Makes the context of a forward pass.
        memory_format: Memory format of the images.
    """
    device = image.device

    def sample(n: int) -> list[float]:
        batch = image.expand(n, *image.shape).contiguous(memory_format=memory_format)

        def forward() -> None:
            with autocast():
                net(batch)

        return measure(forward, device, seconds)

    with _undisturbed(net, image, training=False), torch.inference_mode():
        with peak_memory(device) as memory:
            rate = Spread.of([batch_size / s for s in sample(batch_size)])
        latency = Spread.of([1000 * s for s in sample(1)])
    return Speed(rate, latency, str(device), _name(image.dtype), batch_size, memory)


def training_speed(
    net: nn.Module,
    image: torch.Tensor,
    batch_size: int = 64,
    seconds: float = 1.0,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw,
    autocast: Context = nullcontext,
    memory_format: torch.memory_format = torch.channels_last,
) -> TrainingSpeed:
    """Measures training steps, with the images already on the device. The network is not changed.

    Args:
        net: A network from (N, C, H, W) to logits (N, classes), in the memory format to measure.
        image: Provides the shape (C, H, W), the device and the dtype; the images themselves are noise.
        batch_size: Images per step.
        seconds: Approximate time of each of the three measurements (steps, phases, steps with one image).
        optimizer: Makes the optimizer. Its learning rate is set to 0, which changes no weight and costs the same.
        autocast: Makes the context of a forward pass, including the loss.
        memory_format: Memory format of the images.
    """
    device = image.device
    with _undisturbed(net, image, training=True), torch.enable_grad():
        with peak_memory(device) as memory:
            step = TrainingStep(net, optimizer, autocast)
            batch = _noise(image, batch_size, memory_format), _labels(net, image, batch_size, memory_format)
            rate = Spread.of([batch_size / s for s in measure(lambda: step(*batch), device, seconds)])
        phases = step.phases(*batch, seconds)
        try:
            one = _noise(image, 1, memory_format), batch[1][:1]
            single = Spread.of([1000 * s for s in measure(lambda: step(*one), device, seconds)])
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            single = None
        step.optimizer.zero_grad()
    return TrainingSpeed(rate, phases, single, str(device), _name(image.dtype), batch_size, memory)


class TrainingStep:
    """A training step to measure: ``step(images, labels)``. The learning rate is 0, so the weights do not change.

    Args:
        net: The network, in training mode.
        optimizer, autocast: As for `training_speed`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw,
        autocast: Context = nullcontext,
    ) -> None:
        self.net, self.autocast = net, autocast
        self.optimizer = optimizer(p for p in net.parameters() if p.requires_grad)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, done: Callable[[], None] = lambda: None) -> None:
        """Runs a step on images (N, C, H, W) and labels (N,). Calls ``done`` at the end of each of `PHASES`."""
        with self.autocast():
            logits = self.net(images)
            done()
            loss = nn.functional.cross_entropy(logits, labels)
        done()
        loss.backward()
        done()
        self.optimizer.step()
        self.optimizer.zero_grad()
        done()

    def phases(self, images: torch.Tensor, labels: torch.Tensor, seconds: float) -> dict[str, Spread]:
        """Measures each of `PHASES` in milliseconds, for ``seconds`` and at least `FEWEST` steps."""
        steps: list[list[float]] = []
        end = perf_counter() + seconds
        while len(steps) < FEWEST or (perf_counter() < end and len(steps) < 100 * BLOCKS):
            times: list[float] = []

            def done(times: list[float] = times) -> None:
                synchronize(images.device)
                times.append(perf_counter())

            done()
            self(images, labels, done)
            steps.append([1000 * (b - a) for a, b in pairwise(times)])
        return {name: Spread.of(samples) for name, samples in zip(PHASES, zip(*steps, strict=True), strict=True)}


@contextmanager
def _undisturbed(net: nn.Module, image: torch.Tensor, training: bool) -> Iterator[None]:
    """Sets train or eval mode, and at the end restores modes, buffers (BatchNorm statistics) and random state."""
    devices = [image.device] if image.is_cuda else []
    with in_mode(net, training), buffers_kept(net), torch.random.fork_rng(devices):
        yield


def _noise(image: torch.Tensor, n: int, memory_format: torch.memory_format) -> torch.Tensor:
    noise = torch.randn(n, *image.shape, device=image.device, dtype=image.dtype)
    return noise.contiguous(memory_format=memory_format)


def _labels(net: nn.Module, image: torch.Tensor, n: int, memory_format: torch.memory_format) -> torch.Tensor:
    """Returns random labels (n,) for as many classes as the network has."""
    # Not compiled: a second batch size would make torch.compile switch to dynamic shapes.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        classes = net(_noise(image, 2, memory_format)).shape[1]
    return torch.randint(classes, (n,), device=image.device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
