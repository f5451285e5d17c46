"""The hardware axis: which devices a cell runs on, in how many processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from zoo.errors import ConvzooError, choose

CHOICES = ("auto", "cpu", "gpu", "ddp")
GPU_NAMES = ("gpu", "cuda")
"""What Lightning's accelerators for them are called."""

CPU_PROCESSES = 2
"""Processes of ``hardware=ddp`` without a GPU."""

MOST_CPU_PROCESSES = 256


@dataclass(frozen=True)
class Hardware:
    """A resolved hardware choice.

    Attributes:
        name: ``cpu``, ``gpu`` or ``ddp``.
        accelerator, devices, num_nodes, strategy: Arguments of Lightning's Trainer.
        timeout_s: How long ranks wait for each other before they give up.
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
        """Of this process."""
        return torch.device("cuda" if self.accelerator in GPU_NAMES else "cpu")

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": self._strategy,
        }

    @property
    def _strategy(self) -> Any:
        if self.strategy != "ddp":
            return self.strategy
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(timeout=timedelta(seconds=self.timeout_s))


def resolve_hardware(hardware: dict[str, Any], trainer: dict[str, Any], node_gpus: int | None = None) -> Hardware:
    """Says what a hardware choice means on a machine.

    Args:
        hardware: The hardware group of the configuration.
        trainer: The trainer group; its ``accelerator``, ``devices``, ``num_nodes`` and ``strategy`` win where given.
        node_gpus: GPUs of the machine; None for this one's.

    Raises:
        ConvzooError: The machine does not have what was asked for.
    """
    name = choose("hardware", hardware["name"], CHOICES)
    gpus = torch.cuda.device_count() if node_gpus is None else node_gpus
    if name == "auto":
        name = "gpu" if gpus else "cpu"
    none = "PyTorch sees no GPU on this machine" if node_gpus is None else "hydra.launcher.gpus_per_node=0"
    if name == "gpu" and not gpus:
        raise ConvzooError(f"hardware=gpu, but {none}. Type hardware=cpu, or hardware=auto to use what there is.")
    given = {k: v for k in ("accelerator", "devices", "num_nodes", "strategy") if (v := trainer.get(k)) is not None}
    accelerator = given.get("accelerator", "gpu" if gpus and name != "cpu" else "cpu")
    devices = given.get("devices", hardware["devices"])
    if devices in ("auto", -1, "-1"):
        devices = (gpus or CPU_PROCESSES) if name == "ddp" else 1
    nodes = given.get("num_nodes", hardware["num_nodes"])
    for key, number in (("devices", devices), ("num_nodes", nodes)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ConvzooError(f"hardware.{key}={number} is not a number of {key}. Allowed: 1, 2, 3 … (devices: auto).")
    if accelerator in GPU_NAMES and not gpus:
        raise ConvzooError(f"trainer.accelerator={accelerator}, but {none}. Type hardware=cpu.")
    if accelerator in GPU_NAMES and devices > gpus:
        raise ConvzooError(f"{devices} GPUs were asked for and this machine has {gpus}. Type trainer.devices={gpus}.")
    if accelerator == "cpu" and devices > MOST_CPU_PROCESSES:
        raise ConvzooError(f"{devices} processes on one machine are too many. Type trainer.devices={CPU_PROCESSES}.")
    if name != "ddp" and devices * nodes > 1:
        raise ConvzooError(f"hardware={name} is one device, not {devices * nodes}. Type hardware=ddp for several.")
    strategy = given.get("strategy", "ddp" if name == "ddp" else "auto")
    return Hardware(name, accelerator, devices, nodes, strategy, hardware["timeout_s"])


def inside_a_rank() -> bool:
    """Whether something (torchrun, srun) has started this process as one of several already."""
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or _started() > 1


def _started() -> int:
    """How many processes torchrun or srun has started; not what an allocation could hold."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))


def check_ranks(hardware: Hardware) -> None:
    """Refuses a process that is one of more, or fewer, than the job needs: each would train all of it by itself.

    Raises:
        ConvzooError: Their number differs.
    """
    if inside_a_rank() and _started() != hardware.world_size:
        raise ConvzooError(_other_number(hardware, _started()))


def _other_number(hardware: Hardware, processes: int) -> str:
    return (
        f"{hardware.world_size} processes were asked for (devices × nodes), and this job has {processes}. "
        "Start as many tasks a node as there are devices a node."
    )


def global_rank() -> int:
    """Which of a job's processes this is, as torchrun or srun says; 0 where it is the only one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) if inside_a_rank() else 0


def check_world_size(trainer: Any, hardware: Hardware) -> None:
    """Refuses a job whose processes are not as many as asked for: it would train on a part of the data, silently.

    Raises:
        ConvzooError: The world size differs.
    """
    if trainer.world_size != hardware.world_size:
        raise ConvzooError(_other_number(hardware, trainer.world_size))
