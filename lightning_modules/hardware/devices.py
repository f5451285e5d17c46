"""Resolves the hardware choice: which devices a cell runs on, and in how many processes."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from lightning_modules.config.schema import HardwareOptions, TrainerOptions
from zoo.errors import ConvzooError, choose
from zoo.ranks import inside_a_rank, processes
from zoo.rules import shown

CHOICES = ("auto", "cpu", "gpu", "ddp")
GPU_NAMES = ("gpu", "cuda")
"""Names of Lightning's accelerators for GPUs."""

CPU_PROCESSES = 2
"""Number of processes for ``hardware=ddp`` without a GPU."""

MOST_CPU_PROCESSES = 256

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Lightning's strategies that work with processes launched here."""


@dataclass(frozen=True)
class Hardware:
    """A resolved hardware choice.

    Attributes:
        name: ``cpu``, ``gpu`` or ``ddp``.
        accelerator, devices, num_nodes, strategy: Arguments of Lightning's Trainer.
        timeout_s: Seconds that ranks wait for each other before they give up.
    """

    name: str
    accelerator: str
    devices: int
    num_nodes: int
    strategy: str
    timeout_s: float = 600.0

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device("cuda" if self.accelerator in GPU_NAMES else "cpu")

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        strategy: Any = self.strategy
        if strategy != "auto":
            from lightning.pytorch.strategies import DDPStrategy

            unused = {"find_unused_parameters": True} if strategy.endswith("_true") else {}
            strategy = DDPStrategy(timeout=timedelta(seconds=self.timeout_s), **unused)
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": strategy,
        }


def resolve_hardware(hardware: HardwareOptions, trainer: TrainerOptions, node_gpus: int | None = None) -> Hardware:
    """Resolves a hardware choice on a machine.

    Args:
        hardware: The hardware group of the configuration.
        trainer: The trainer group; its ``accelerator``, ``devices``, ``num_nodes`` and ``strategy`` win if set.
        node_gpus: Number of GPUs of the machine; None for this machine.

    Raises:
        ConvzooError: The machine lacks the requested devices, or the request is not valid.
    """
    name = choose("hardware", hardware.name, CHOICES)
    gpus = torch.cuda.device_count() if node_gpus is None else node_gpus
    if name == "auto":
        name = "gpu" if gpus else "cpu"
    accelerator = trainer.accelerator
    if accelerator in (None, "auto"):
        accelerator = "gpu" if name == "gpu" or (gpus and name == "ddp") else "cpu"
    devices = _number("devices", hardware, trainer) or ((gpus or CPU_PROCESSES) if name == "ddp" else 1)
    nodes = _number("num_nodes", hardware, trainer)
    if not gpus and (name == "gpu" or accelerator in GPU_NAMES):
        asked = "hardware=gpu" if name == "gpu" else f"trainer.accelerator={accelerator}"
        none = "PyTorch sees no GPU on this machine" if node_gpus is None else "hydra.launcher.gpus_per_node=0"
        raise ConvzooError(f"{asked}, but {none}. Type hardware=cpu, or hardware=auto to use what the machine has.")
    if accelerator in GPU_NAMES and devices > gpus:
        raise ConvzooError(f"{devices} GPUs were requested, but this machine has {gpus}. Type trainer.devices={gpus}.")
    if accelerator == "cpu" and devices > MOST_CPU_PROCESSES:
        raise ConvzooError(f"{devices} processes on one machine are too many. Type trainer.devices={CPU_PROCESSES}.")
    if name != "ddp" and devices * nodes > 1:
        raise ConvzooError(f"hardware={name} uses one device, not {devices * nodes}. Type hardware=ddp for several.")
    if trainer.sync_batchnorm and accelerator == "cpu" and devices * nodes > 1:
        raise ConvzooError(
            "trainer.sync_batchnorm=true needs GPUs: PyTorch has no synchronized BatchNorm on CPUs. Leave it out."
        )
    strategy = trainer.strategy or "auto"
    if strategy not in STRATEGIES:
        raise ConvzooError(
            f"trainer.strategy={shown(strategy)} is not allowed: hardware=ddp starts one process per device. "
            f"Allowed: {', '.join(STRATEGIES)}, or null."
        )
    if strategy == "auto" and name == "ddp":
        strategy = "ddp"
    return Hardware(name, accelerator, devices, nodes, strategy, hardware.timeout_s)


def _number(key: str, hardware: HardwareOptions, trainer: TrainerOptions) -> int:
    """Returns the number of devices or nodes; 0 means all devices.

    Raises:
        ConvzooError: The value is not a valid number; the text names the key that was typed.
    """
    name, value = f"trainer.{key}", getattr(trainer, key)
    if value is None:
        name, value = f"hardware.{key}", getattr(hardware, key)
    if key == "devices" and value in ("auto", "-1", -1):
        return 0
    if type(value) is int and value >= 1:
        return value
    allowed = "1, 2, 3 …" + (", or auto" if key == "devices" else "")
    hint = ""
    if key == "devices" and (isinstance(value, list) or "," in str(value)):
        chosen = ",".join(map(str, value)) if isinstance(value, list) else str(value).strip(", ")
        hint = f" To choose GPUs, start the command with CUDA_VISIBLE_DEVICES={shlex.quote(chosen)}"
    raise ConvzooError(f"{name}={shown(value)} is not allowed. Allowed: {allowed}.{hint}")


def check_world_size(hardware: Hardware, started: int | None = None) -> None:
    """Checks that a job has as many processes as were requested; else each would train on part of the data.

    Args:
        hardware: The requested hardware.
        started: Number of processes of the job; None: of those that torchrun or srun started, if any.

    Raises:
        ConvzooError: The numbers differ.
    """
    if started is None:
        started = processes() if inside_a_rank() else hardware.world_size
    if started != hardware.world_size:
        raise ConvzooError(
            f"{hardware.world_size} processes (devices × nodes) were requested, but this job has {started}. "
            "Start one task per device on each node."
        )


def set_process_options(hardware: HardwareOptions, trainer: TrainerOptions) -> None:
    """Sets this process's threads and the libraries' environment, before the device is used."""
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if trainer.deterministic:
        # cuBLAS reads this on first use of the GPU, which is before Lightning's Trainer would set it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not torch.cuda.is_available():
        # Adam checks for a GPU at every step; without a GPU the NVML-based check costs 0.2 ms each time.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
