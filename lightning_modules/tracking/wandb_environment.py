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
from zoo.log import log

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
    """Return the mode that ``logger.mode`` or else a variable asks for; None if none does.

    Raises:
        ConvzooError: It is not one of `MODES`.
    """
    if typed != "auto":
        return choose("logger.mode", typed, ("auto", *MODES))
    if (variable("DISABLED") or "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    if mode := variable("MODE"):
        return choose("WANDB_MODE", OTHER_NAMES.get(mode.lower(), mode.lower()), MODES)
    return None


def find_folder(folder: Path) -> Path:
    """Return the folder for W&B's files: ``WANDB_DIR``, created if necessary, or else the run's folder."""
    given = variable("DIR")
    chosen = Path(given).expanduser().absolute() if given else folder
    if variable("SWEEP_ID") and chosen == Path.cwd():
        return folder  # `wandb agent` sets it if the user did not
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning(f"W&B: WANDB_DIR={given}: {error.strerror}. Its files are in the run's folder instead.")
        return folder
    return chosen


def find_id(default: str) -> str:
    """Return the run's id: ``WANDB_RUN_ID`` or a default.

    Jobs of a convzoo sweep ignore the variable, since all of them would write to the same W&B run.
    """
    return default if "CONVZOO_SWEEP" in os.environ else variable("RUN_ID") or default


def find_places(settings: LoggerOptions, name: str) -> dict[str, Any]:
    """Return arguments of `wandb.init` that say where a run belongs; ``name`` is its default name."""
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
