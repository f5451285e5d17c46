"""Add convzoo's configuration groups to the search path of every Hydra application, under ``convzoo/``.

Hydra imports this module at every start, so the resolver that the configuration uses is registered here, too.
"""

import hashlib

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf

from hydra_plugins.convzoo._composition import Composition, as_typed, is_ours
from lightning_modules.config.values import means_null


class ConvzooSearchPath(SearchPathPlugin):
    """Appends ``pkg://zoo.conf``, whose only entry is ``convzoo/``, so that no group of the application collides."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = next((e.path for e in search_path.get_path() if e.provider == "main"), None) or ""
        if not is_ours(main.removeprefix("file://")):
            search_path.append(provider="convzoo", path="pkg://zoo.conf")


def sweep_name(given: str | None, overrides: ListConfig, *, _root_: DictConfig) -> str:
    """Return the name of a sweep's folder, by default derived from the command, so that the same command resumes it.

    Args:
        given: The name the user gave; None or ``null`` for the derived one.
        overrides: The overrides of the sweep.
        _root_: The configuration, passed by OmegaConf.
    """
    if given and not means_null(given):
        return given
    matters = sorted(
        o for o in as_typed(overrides) if not o.startswith(("sweep.", "logger", "hardware.threads", "checkpoint."))
    )
    swept = [o.partition("=")[0].lstrip("+") for o in matters if "," in o.partition("=")[2] or "(" in o]
    matters += Composition.of(_root_.hydra).meant()
    code = hashlib.sha256("\n".join(matters).encode()).hexdigest()[:7]
    return "-".join(["sweep", *swept])[:80] + f"-s{code}"


OmegaConf.register_new_resolver("convzoo_sweep", sweep_name, replace=True)
