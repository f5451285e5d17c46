"""Puts convzoo's configuration groups on the search path of every Hydra application, under ``convzoo/``."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ConvzooSearchPath(SearchPathPlugin):
    """Appends ``pkg://zoo.conf``, whose only entry is ``convzoo/``: no group of the application can collide."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = next((e.path for e in search_path.get_path() if e.provider == "main"), None) or ""
        if not _is_ours(main.removeprefix("file://")):
            search_path.append(provider="convzoo", path="pkg://zoo.conf")


def _is_ours(folder: str) -> bool:
    """Whether the application is train.py itself, which has these groups at its root."""
    ours = Path(__file__).resolve().parents[2] / "conf"
    return bool(folder) and Path(folder).resolve() == ours
