"""Manages the user's cache folder, which holds only what convzoo can compute again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_folder(name: str) -> Path | None:
    """Returns convzoo's folder ``name`` in ``$XDG_CACHE_HOME``, else ``~/.cache``; None if it is not usable.

    Cached files are trusted, and cached kernels are executed. So a folder that another user owns is rejected, and
    write access by other users is removed.

    Args:
        name: Subfolder, one per kind of content.
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
    except (OSError, RuntimeError):  # Path.home() finds no home directory
        return None


def is_ours(path: Path, or_shared: bool = False) -> bool:
    """Returns whether this user owns a path and (unless ``or_shared``) no other user may write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and (or_shared or not found.st_mode & 0o022)


def recall(kind: str, name: str) -> dict[str, Any]:
    """Returns what `remember` stored; empty if nothing is stored or it is unreadable."""
    folder = cache_folder(kind)
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((folder / f"{name}.json").read_text()) if folder else None
        if isinstance(known, dict):
            return known
    return {}


def remember(kind: str, name: str, known: dict[str, Any]) -> None:
    """Stores a dictionary for later processes, atomically, since jobs write concurrently. Write errors are ignored."""
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
                os.unlink(temporary)  # still there only if the write or the rename failed


def digest(value: Any) -> str:
    """Returns a hash of a plain value, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
