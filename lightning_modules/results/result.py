"""Reads and writes ``result.json``, a run's result, as documented in docs/reference/results.md."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_modules.results.files import write_whole
from zoo.plugins import loaded_plugins
from zoo.report.checksum import add_checksum, check_checksum

FILE = "result.json"
LOCK = "job.lock"
"""Held during a run: two runs in one folder would overwrite each other's files."""
EPOCHS = "epochs.jsonl"
STATUSES = ("completed", "failed", "interrupted")
PARTS = ("cell", "metrics", "environment")
"""Keys of every result; empty if nothing is known."""
UNTRACKED: dict[str, Any] = {"wandb": {"id": None, "mode": None, "dir": None}}
"""What a result says of a run without W&B."""
PACKAGES = ("convzoo", "torch", "torchvision", "lightning", "timm", "hydra-core", "wandb")


def write_result(folder: str | os.PathLike[str], result: dict[str, Any]) -> Path:
    """Writes a result atomically (to a temporary file, synced, renamed), with a checksum in it.

    Args:
        folder: The run's folder.
        result: ``status``, ``cell``, ``metrics``, ``environment``, ``wandb``, ``checkpoint``, ``command``; ``error``
            unless the status is ``completed``.

    Returns:
        The path of the file.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(folder) / FILE
    write_whole(path, json.dumps(add_checksum(_finite(result)), indent=2, allow_nan=False) + "\n")
    return path


def read_result(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the result of the run in a folder; empty if there is none.

    Raises:
        ValueError: It cannot be read, is not a run's result, or was modified since; the text says why.
    """
    try:
        result = json.loads((Path(folder) / FILE).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(result, dict):
        raise ValueError(f"it holds a {type(result).__name__}")
    if result.get("status") not in STATUSES:
        raise ValueError(f"its status is none of {', '.join(STATUSES)}")
    if missing := [part for part in PARTS if type(result.get(part)) is not dict]:
        raise ValueError(f"it has no {', '.join(missing)}")
    return check_checksum(result)


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON lacks, with None."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(**measured_on: Any) -> dict[str, Any]:
    """Returns the environment of a run: versions, platform, git commit, and what the caller adds (device, dtype …)."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    plugins = {"plugins": loaded_plugins()} if loaded_plugins() else {}
    return {
        "versions": versions,
        **plugins,
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        **measured_on,
    }


def _git_commit() -> str | None:
    """Returns the commit of convzoo's source, with ``+`` if files differ from it; None outside a clone."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
