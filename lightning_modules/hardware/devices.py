"""The hardware axis: which devices a cell runs on, in how many processes."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from lightning_modules.config.schema import HardwareOptions, TrainerOptions
from lightning_modules.config.values import shown
from zoo.errors import ConvzooError, choose

CHOICES = ("auto", "cpu", "gpu", "ddp")
GPU_NAMES = ("gpu", "cuda")
"""What Lightning's accelerators for them are called."""

CPU_PROCESSES = 2
"""Processes of ``hardware=ddp`` without a GPU."""

MOST_CPU_PROCESSES = 256


STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Of Lightning's, those whose processes are ours."""


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
        if self.strategy == "auto":
            return self.strategy
        from lightning.pytorch.strategies import DDPStrategy

        unused = {"find_unused_parameters": True} if self.strategy.endswith("_true") else {}
        return DDPStrategy(timeout=timedelta(seconds=self.timeout_s), **unused)


def resolve_hardware(hardware: HardwareOptions, trainer: TrainerOptions, node_gpus: int | None = None) -> Hardware:
    """Says what a hardware choice means on a machine.

    Args:
        hardware: The hardware group of the configuration.
        trainer: The trainer group; its ``accelerator``, ``devices``, ``num_nodes`` and ``strategy`` win where given.
        node_gpus: GPUs of the machine; None for this one's.

    Raises:
        ConvzooError: The machine does not have what was asked for.
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
    """How many devices, or nodes; 0 for as many devices as there are.

    Raises:
        ConvzooError: It is no number of them; told under the key that was typed.
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
    """Refuses strategies that start processes of their own, or split a network over several.

    Raises:
        ConvzooError: It is one of those, or none of Lightning's.
    """
    if strategy not in STRATEGIES:
        raise ConvzooError(
            f"trainer.strategy={shown(strategy)} is not allowed: a cell trains in one process, or one a device, which "
            f"hardware=ddp starts. Allowed: {', '.join(STRATEGIES)}, or null."
        )


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
