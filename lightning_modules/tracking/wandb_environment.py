"""Apply W&B's environment variables, each unless the corresponding configuration key is set.

W&B itself reads ``WANDB_ENTITY``, ``WANDB_TAGS`` and ``WANDB_NOTES``; convzoo passes no argument that overrides them by
default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_modules.config.schema import LoggerOptions
from zoo.errors import choose

PROJECT = "convzoo"
"""Default project, if neither a key nor a variable sets one."""

MODES = ("online", "offline", "disabled")
OTHER_NAMES = {"dryrun": "offline", "run": "online"}
"""W&B's older names of the modes."""

RESUMES = ("allow", "must", "never")
PASSED = ("PROJECT", "ENTITY", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "DIR", "MODE", "DISABLED", "RESUME")
"""Variables passed to a sweep's jobs on other machines: neither a run id, which belongs to one job, nor an API key."""


def variable(name: str) -> str | None:
    """Return the value of ``WANDB_{name}``; None if it is unset or empty."""
    return os.environ.get(f"WANDB_{name}", "").strip() or None


def passed() -> dict[str, str]:
    """Return the W&B variables that a sweep's jobs need on another machine."""
    return {f"WANDB_{name}": value for name in PASSED if (value := variable(name))}


def find_mode(typed: str) -> str | None:
    """Return the requested mode, ``online``, ``offline`` or ``disabled``; None if none was requested.

    Args:
        typed: ``logger.mode``.

    Raises:
        ConvzooError: ``logger.mode`` or ``WANDB_MODE`` is not a valid mode.
    """
    if typed != "auto":
        return choose("logger.mode", typed, ("auto", *MODES))
    if (variable("DISABLED") or "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    if said := variable("MODE"):
        return choose("WANDB_MODE", OTHER_NAMES.get(said.lower(), said.lower()), MODES)
    return None


def find_folder(folder: Path) -> Path:
    """Return the folder for W&B's files: ``WANDB_DIR``, created if necessary, or else the run's folder.

    Args:
        folder: The run's folder.
    """
    given = variable("DIR")
    if given is None:
        return folder
    chosen = Path(given).expanduser().absolute()
    if variable("SWEEP_ID") and chosen == Path.cwd():
        return folder  # `wandb agent` sets it if the user did not
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"W&B: WANDB_DIR={given}: {error.strerror}, so its files are in the run's folder", flush=True)
        return folder
    return chosen


def find_id(usual: str) -> str:
    """Return the run's id: ``WANDB_RUN_ID`` or a default.

    Jobs of a convzoo sweep ignore the variable, since all of them would write to the same W&B run.

    Args:
        usual: The default id.
    """
    return usual if "CONVZOO_SWEEP" in os.environ else variable("RUN_ID") or usual


def find_places(settings: LoggerOptions, name: str) -> dict[str, Any]:
    """Return a run's project, entity, group, name, job type, tags and resume mode, as arguments of `wandb.init`.

    Args:
        settings: The logger group of the configuration.
        name: The run's name, unless ``WANDB_NAME`` sets another one.
    """
    resume = variable("RESUME")
    return {
        "project": settings.project or variable("PROJECT") or PROJECT,
        "entity": settings.entity,
        "group": settings.group or variable("RUN_GROUP") or os.environ.get("CONVZOO_SWEEP") or variable("SWEEP_ID"),
        "name": variable("NAME") or name,
        "job_type": variable("JOB_TYPE") or "train",
        "tags": settings.tags,
        "resume": resume if resume in RESUMES else "allow",
    }
