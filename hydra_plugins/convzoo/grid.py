"""Replace Hydra's ``basic`` grid sweeper by one that skips the redundant composition of every job."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore

from hydra_plugins.convzoo._launcher import SweepLauncher


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.convzoo.grid.GridSweeper"


# Replaces `basic`: a choice in our configuration would take precedence over an experiment's choice of a sweeper.
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=GridSweeperConf, provider="convzoo")


class GridSweeper(BasicSweeper):
    """Hydra's sweeper without its check that each job can be composed, which takes 0.1 s per job.

    convzoo's launchers compose all jobs before the first one starts anyway.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Skip Hydra's check if a launcher of convzoo's runs the jobs, since it composes all of them itself."""
        if not isinstance(self.launcher, SweepLauncher):
            super().validate_batch_is_legal(batch)
