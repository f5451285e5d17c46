"""Launch a sweep on a Ray cluster: ``hydra/launcher=ray``. See docs/clusters.md for its use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.convzoo._launcher import SweepLauncher


@dataclass
class RayLauncherConf:
    """Configuration of `RayLauncher`.

    Attributes:
        address: Address of the cluster; ``local`` starts one on this machine, ``auto`` finds the one announced by
            RAY_ADDRESS or ``ray start``.
        cpus: CPUs and threads per job.
        gpus_per_node: GPUs per node.
        jobs: Maximum number of jobs at a time; null for as many as fit.
    """

    _target_: str = "hydra_plugins.convzoo.ray_launcher.RayLauncher"
    address: str = "auto"
    cpus: int = 1
    gpus_per_node: int = 0
    jobs: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayLauncherConf, provider="convzoo")


class RayLauncher(SweepLauncher):
    """Runs each job as ``python train.py OVERRIDES`` in a Ray task."""

    def __init__(self, address: str, cpus: int, gpus_per_node: int, jobs: int | None) -> None:
        self.options = (address, cpus, gpus_per_node, jobs)

    def engine(self, folder: Path) -> Any:
        from lightning_modules.sweep.ray import RayEngine

        return RayEngine(*self.options, folder)
