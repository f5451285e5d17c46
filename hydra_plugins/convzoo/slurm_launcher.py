"""The launcher of a sweep on a Slurm cluster: ``hydra/launcher=slurm``. docs/clusters.md says how to use it."""

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.convzoo.local_launcher import Job, LocalLauncher
from lightning_modules.sweep.slurm import Queued, Shape, SlurmOptions, SlurmQueue, SlurmTask, shape_of


@dataclass
class SlurmLauncherConf:
    """The keys of `lightning_modules.sweep.slurm.SlurmOptions`, which says what they mean."""

    _target_: str = "hydra_plugins.convzoo.slurm_launcher.SlurmLauncher"
    gpus_per_node: int = 0
    at_once: int = 50
    timeout_min: int = 60
    signal_delay_s: int = 120
    requeues: int = 50
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    poll_s: float = 5.0


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="convzoo")
