"""Launch a sweep on this machine: ``hydra/launcher=local``, the default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.convzoo._launcher import SweepLauncher
from zoo.errors import ConvzooError


@dataclass
class LocalLauncherConf:
    """Configuration of `LocalLauncher`.

    Attributes:
        jobs: Maximum number of processes at a time; ``auto``: one per core, with one thread each.
        jobs_per_gpu: Jobs that share a GPU; ``auto``: as many as fit into its memory.
        pool: Whether to fork jobs from a process that has already imported everything.
        stagger_s: Seconds between two starts without the pool.
    """

    _target_: str = "hydra_plugins.convzoo.local_launcher.LocalLauncher"
    jobs: Any = "auto"
    jobs_per_gpu: Any = "auto"
    pool: Any = True
    stagger_s: float = 0.5


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="convzoo")


class LocalLauncher(SweepLauncher):
    """Runs each job as ``python train.py OVERRIDES`` in its own process; see `LocalLauncherConf` for the options."""

    def __init__(
        self, jobs: int | str = "auto", jobs_per_gpu: int | str = "auto", pool: bool = True, stagger_s: float = 0.5
    ) -> None:
        self.jobs, self.jobs_per_gpu, self.wants_pool, self.stagger_s = jobs, jobs_per_gpu, pool, stagger_s
        self.pool = None

    def engine(self, folder: Path) -> Any:
        from lightning_modules.sweep.local import LocalEngine
        from lightning_modules.sweep.pool import Pool

        if not isinstance(self.wants_pool, bool):
            raise ConvzooError(f"hydra.launcher.pool={self.wants_pool} is not allowed. Allowed: true, false")
        # Reuse the pool: a search launches one batch after another.
        self.pool = self.pool or Pool(self.wants_pool, "hydra_plugins.convzoo._cli:warm_up")
        return LocalEngine(self.jobs, self.jobs_per_gpu, self.stagger_s, folder.name, self.pool)
