"""Create and finish the loggers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_modules.config.objects import Node, call, maker, takes
from lightning_modules.config.schema import CellSpec
from lightning_modules.results.result import UNTRACKED
from lightning_modules.tracking.base import Outcome, RunLogger
from lightning_modules.tracking.csv import CsvRows
from lightning_modules.tracking.foreign import guarded
from lightning_modules.tracking.naming import cell_name, run_id, run_name
from lightning_modules.tracking.wandb_environment import find_folder, find_id, find_mode, find_places
from lightning_modules.tracking.wandb_files import this_run_id
from lightning_modules.tracking.wandb_logger import WandbLogger
from zoo.log import log


def make_loggers(
    spec: CellSpec, folder: Path, choices: dict[str, Any], plan: str, resumed: bool = False
) -> list[RunLogger]:
    """Create the loggers that the configuration names, W&B first.

    Args:
        spec: The cell; all of it is stored under one key of W&B's config.
        folder: The run's folder.
        choices: The cell's choices, flat; they become columns in W&B and hyper-parameters in others.
        plan: The execution plan; becomes a column, too.
        resumed: True if the run continues from the checkpoint of an earlier start.

    Raises:
        ConvzooError: A logger cannot be made.
    """
    others = [
        _other(key, node, folder, {**choices, "plan": plan}, resumed) for key, node in spec.logger.options.items()
    ]
    if spec.logger.name == "csv":  # typed as a key
        others.append(CsvRows(folder, resumed))
    return [*_wandb(spec, folder, choices, plan, resumed), *others] if spec.logger.name == "wandb" else others


def _other(key: str, node: Node, folder: Path, choices: dict[str, Any], resumed: bool) -> RunLogger:
    """Create a logger named by ``_target_``, with ``resumed`` and ``run_name`` if it takes them."""
    name = f"logger.{key}"
    build = maker(name, node, folder)
    known, _ = takes(build)
    offered = {"resumed": resumed, "run_name": run_name(choices)}
    logger = call(name, node, build, Logger, **{k: v for k, v in offered.items() if k in known and k not in node})
    return logger if isinstance(logger, RunLogger) else guarded(logger, key, choices)


def _wandb(spec: CellSpec, folder: Path, choices: dict[str, Any], plan: str, resumed: bool) -> list[RunLogger]:
    mode = find_mode(spec.logger.mode)
    if mode == "disabled":
        return [RunLogger({"wandb": UNTRACKED["wandb"] | {"mode": mode}})]
    place = find_folder(folder)
    arguments = {
        **find_places(spec.logger, run_name(choices)),
        "id": this_run_id(find_id(run_id(choices, folder)), place, resumed),
        "config": {**choices, "plan": plan, "cell": cell_name(choices), "settings": spec.plain()},
        "dir": place,
    }
    return [WandbLogger(arguments, mode != "offline", spec.logger.timeout_s)]


def finish_loggers(loggers: Sequence[RunLogger], outcome: Outcome) -> dict[str, Any]:
    """Finish every logger, whatever happens to the others; returns `entries`."""
    for logger in loggers:
        try:
            logger.finish(outcome)
        except Exception as error:  # a foreign library; the run has its result already
            log.warning(f"{logger.name}: the run was not ended properly ({error})")
    return entries(loggers)


def entries(loggers: Sequence[RunLogger]) -> dict[str, Any]:
    """Return what ``result.json`` says about the loggers."""
    return {key: value for logger in loggers for key, value in logger.entry.items()}
