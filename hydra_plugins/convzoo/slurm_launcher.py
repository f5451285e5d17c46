"""Launch a sweep on a Slurm cluster: ``hydra/launcher=slurm``. See docs/clusters.md for its use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.convzoo._launcher import SweepLauncher
from lightning_modules.config.values import means_null
from lightning_modules.sweep.slurm_options import SlurmOptions


@dataclass
class SlurmLauncherConf(SlurmOptions):
    """Configuration of `SlurmLauncher`; `SlurmOptions` documents the keys."""

    _target_: str = "hydra_plugins.convzoo.slurm_launcher.SlurmLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="convzoo")


class SlurmLauncher(SweepLauncher):
    """Runs each job as ``python train.py OVERRIDES`` on the cluster, in one job array per resource shape."""

    def __init__(self, **options: Any) -> None:
        self.options = SlurmOptions(**{key: None if means_null(v) else v for key, v in options.items()})

    def engine(self, folder: Path) -> Any:
        from lightning_modules.sweep.slurm import SlurmEngine

        return SlurmEngine(self.options, folder)
