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
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": self._strategy,
        }

    @property
    def _strategy(self) -> Any:
        if self.strategy == "auto":
            return self.strategy
        from lightning.pytorch.strategies import DDPStrategy

        unused = {"find_unused_parameters": True} if self.strategy.endswith("_true") else {}
        return DDPStrategy(timeout=timedelta(seconds=self.timeout_s), **unused)


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
    none = "PyTorch sees no GPU on this machine" if node_gpus is None else "hydra.launcher.gpus_per_node=0"
    if name == "gpu" and not gpus:
        raise ConvzooError(f"hardware=gpu, but {none}. Type hardware=cpu, or hardware=auto to use what there is.")
    given = {
        k: v for k in ("accelerator", "devices", "num_nodes", "strategy") if (v := getattr(trainer, k)) is not None
    }
    if given.get("accelerator") == "auto":
        del given["accelerator"]
    accelerator = given.get("accelerator", "gpu" if gpus and name != "cpu" else "cpu")
    devices = _number("devices", hardware, given)
    devices = devices or ((gpus or CPU_PROCESSES) if name == "ddp" else 1)
    nodes = _number("num_nodes", hardware, given)
    if accelerator in GPU_NAMES and not gpus:
        raise ConvzooError(f"trainer.accelerator={accelerator}, but {none}. Type hardware=cpu.")
    if accelerator in GPU_NAMES and devices > gpus:
        raise ConvzooError(f"{devices} GPUs were asked for and this machine has {gpus}. Type trainer.devices={gpus}.")
    if accelerator == "cpu" and devices > MOST_CPU_PROCESSES:
        raise ConvzooError(f"{devices} processes on one machine are too many. Type trainer.devices={CPU_PROCESSES}.")
    if name != "ddp" and devices * nodes > 1:
        raise ConvzooError(f"hardware={name} is one device, not {devices * nodes}. Type hardware=ddp for several.")
    strategy = given.get("strategy", "auto")
    _check_strategy(strategy)
    if strategy == "auto" and name == "ddp":
        strategy = "ddp"
    return Hardware(name, accelerator, devices, nodes, strategy, hardware.timeout_s)


def _number(key: str, hardware: HardwareOptions, given: dict[str, Any]) -> int:
    """Returns the number of devices or nodes; 0 means all devices.

    Raises:
        ConvzooError: The value is no such number; the text names the key that was typed.
    """
    value, name = (given[key], f"trainer.{key}") if key in given else (getattr(hardware, key), f"hardware.{key}")
    if key == "devices" and value in ("auto", "-1", -1):
        return 0
    if type(value) is int and value >= 1:
        return value
    hint = ""
    if key == "devices" and (isinstance(value, list) or "," in str(value)):
        chosen = ",".join(map(str, value)) if isinstance(value, list) else str(value).strip(", ")
        hint = f" Which GPUs a run sees is said before the command: CUDA_VISIBLE_DEVICES={shlex.quote(chosen)} python …"
    allowed = "1, 2, 3 …" + (", or auto" if key == "devices" else "")
    raise ConvzooError(f"{name}={shown(value)} is no number of {key.removeprefix('num_')}. Allowed: {allowed}.{hint}")


def _check_strategy(strategy: str) -> None:
    """Rejects strategies that start their own processes or shard a network.

    Raises:
        ConvzooError: The strategy is one of those, or unknown to Lightning.
    """
    if strategy not in STRATEGIES:
        raise ConvzooError(
            f"trainer.strategy={shown(strategy)} is not allowed: a cell trains in one process, or one a device, which "
            f"hardware=ddp starts. Allowed: {', '.join(STRATEGIES)}, or null."
        )


def inside_a_rank() -> bool:
    """Returns whether an external launcher (torchrun, srun) started this process as one of several ranks."""
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or _started() > 1


def _started() -> int:
    """Returns the number of processes that torchrun or srun started, which may be below the size of the allocation."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1)))


def check_ranks(hardware: Hardware) -> None:
    """Checks that an external launcher started as many processes as asked for; else each would train on its own.

    Raises:
        ConvzooError: The numbers differ.
    """
    if inside_a_rank() and _started() != hardware.world_size:
        raise ConvzooError(_other_number(hardware, _started()))


def _other_number(hardware: Hardware, processes: int) -> str:
    return (
        f"{hardware.world_size} processes were asked for (devices × nodes), and this job has {processes}. "
        "Start as many tasks a node as there are devices a node."
    )


def global_rank() -> int:
    """Returns the rank of this process in the job, as set by torchrun or srun; 0 for a single process."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) if inside_a_rank() else 0


def check_world_size(trainer: Any, hardware: Hardware) -> None:
    """Checks that the Trainer's world size is the one asked for; else it would silently train on part of the data.

    Raises:
        ConvzooError: The world size differs.
    """
    if trainer.world_size != hardware.world_size:
        raise ConvzooError(_other_number(hardware, trainer.world_size))
