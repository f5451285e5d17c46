"""The user's cache folder: what convzoo may make again at any time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_folder(name: str) -> Path | None:
    """A folder of convzoo's in ``$XDG_CACHE_HOME``, else ``~/.cache``; None where it cannot be used.

    What lies there is believed, and compiled kernels are run: a folder of somebody else's is not used, and nobody else
    may write to ours.

    Args:
        name: What is kept there.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "convzoo" / name
        folder.mkdir(parents=True, exist_ok=True)
        if not is_ours(folder, or_shared=True):
            return None
        if not is_ours(folder):
            folder.chmod(0o700)
        return folder if os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # no home
        return None


def is_ours(path: Path, or_shared: bool = False) -> bool:
    """Whether a file or a folder is this user's, and (but for ``or_shared``) nobody else's to write."""
    found = path.stat()
    return found.st_uid == os.geteuid() and (or_shared or not found.st_mode & 0o022)


def recall(kind: str, name: str) -> dict[str, Any]:
    """What `remember` kept; empty where there is nothing, or nothing that can be read."""
    folder = cache_folder(kind)
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((folder / f"{name}.json").read_text()) if folder else None
        if isinstance(known, dict):
            return known
    return {}


def remember(kind: str, name: str, known: dict[str, Any]) -> None:
    """Keeps it for later processes, whole or not at all: jobs write side by side. Where it cannot, it does nothing."""
    folder = cache_folder(kind)
    if folder is None:
        return
    with contextlib.suppress(OSError):
        number, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(number, "w") as file:
                file.write(json.dumps(known, indent=1) + "\n")
            os.replace(temporary, folder / f"{name}.json")
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # where it has not become the file


def digest(value: Any) -> str:
    """A hash of a plain value, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
