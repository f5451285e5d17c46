"""Hydra's own sweeper, ``basic``: every combination of the values on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.convzoo.grid.GridSweeper"


# In its place, and not chosen in our configuration: there it would be stronger than what an experiment chooses.
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=GridSweeperConf, provider="convzoo")


class GridSweeper(BasicSweeper):
    """Hydra's own, which composes each job to see whether it can be composed. Our launchers compose all jobs anyway
    before the first one starts, and a job takes a tenth of a second."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to our launchers."""
        # Here, because Hydra's scan for plugins makes a second module of what was imported before it came by.
        from hydra_plugins.convzoo.local_launcher import SweepLauncher

        if not isinstance(self.launcher, SweepLauncher):
            super().validate_batch_is_legal(batch)
