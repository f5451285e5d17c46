"""The user's cache folder: what convzoo may make again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """A folder of convzoo's in ``$XDG_CACHE_HOME``, else ``~/.cache``; None where it cannot be written.

    Args:
        name: What is kept there.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "convzoo" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # no home
        return None
