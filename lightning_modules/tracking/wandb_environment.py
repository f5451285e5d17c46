"""W&B's own environment variables: each holds unless the key that says the same was typed.

``WANDB_ENTITY``, ``WANDB_TAGS`` and ``WANDB_NOTES`` are read by W&B itself, as no argument of ours stands before them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_modules.config.schema import LoggerOptions
from zoo.errors import choose

PROJECT = "convzoo"
"""Where neither a key nor a variable says another one."""

MODES = ("online", "offline", "disabled")
OTHER_NAMES = {"dryrun": "offline", "run": "online"}
"""W&B's old words."""

RESUMES = ("allow", "must", "never")
PASSED = ("PROJECT", "ENTITY", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "DIR", "MODE", "DISABLED", "RESUME")
"""What a sweep's jobs on other machines are given: no run's id, which is one job's, and no key."""


def variable(name: str) -> str | None:
    """``WANDB_NAME``; None where it is not set, or empty."""
    return os.environ.get(f"WANDB_{name}", "").strip() or None


def passed() -> dict[str, str]:
    """The variables that a sweep's jobs need on another machine."""
    return {f"WANDB_{name}": value for name in PASSED if (value := variable(name))}


def find_mode(typed: str) -> str | None:
    """``online``, ``offline`` or ``disabled``, as asked for; None where nobody said.

    Args:
        typed: ``logger.mode``.

    Raises:
        ConvzooError: ``WANDB_MODE`` is none of W&B's words.
    """
    if typed != "auto":
        return choose("logger.mode", typed, ("auto", *MODES))
    if (variable("DISABLED") or "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    if said := variable("MODE"):
        return choose("WANDB_MODE", OTHER_NAMES.get(said.lower(), said.lower()), MODES)
    return None


def find_folder(folder: Path) -> Path:
    """Where W&B's files go: ``WANDB_DIR``, made if need be, else the run's folder."""
    given = variable("DIR")
    if given is None:
        return folder
    chosen = Path(given).expanduser().absolute()
    if variable("SWEEP_ID") and chosen == Path.cwd():
        return folder  # `wandb agent` sets it where nobody did
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"W&B: WANDB_DIR={given}: {error.strerror}, so its files are in the run's folder", flush=True)
        return folder
    return chosen


def find_id(usual: str) -> str:
    """The run's id: ``WANDB_RUN_ID`` where the run is no job of a sweep of ours, whose jobs would be one run.

    Args:
        usual: Its id otherwise.
    """
    return usual if "CONVZOO_SWEEP" in os.environ else variable("RUN_ID") or usual


def find_places(settings: LoggerOptions, name: str) -> dict[str, Any]:
    """Where a run stands in W&B: its project, entity, group, name, kind and tags, as `wandb.init` calls them.

    Args:
        settings: The logger group of the configuration.
        name: The run's, unless ``WANDB_NAME`` says another one.
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
