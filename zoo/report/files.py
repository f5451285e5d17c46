"""Reads the files of runs robustly: truncated, with wrong types, or malicious."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

from zoo.text import clean

LIMIT = 64 * 2**20
"""Maximum size of a file in bytes; a result has a few thousand."""
LARGEST = 1e100


class UnreadableError(Exception):
    """A file cannot be used; the message says why."""


def read_text(path: Path) -> str:
    """Reads a regular file as text; invalid UTF-8 is replaced.

    Raises:
        UnreadableError: The file is missing, not a regular file, too large, or not permitted to be read.
    """
    try:
        found = path.stat()
        # Reading a pipe would wait forever for a writer.
        if not S_ISREG(found.st_mode):
            raise UnreadableError("is no file")
        if found.st_size > LIMIT:
            raise UnreadableError(f"has {found.st_size / 2**20:.0f} MiB; {LIMIT // 2**20} are allowed")
        return path.read_text("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UnreadableError: As for `read_text`, or the content is not JSON, or not an object.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is no JSON: {clean(error, 200)}") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"holds a {type(value).__name__}, not an object")
    return value


def read_epochs(folder: str | Path) -> tuple[list[dict[str, float]], str | None]:
    """Reads the finished epochs of a run, in order.

    An incomplete last line, from a process killed while writing, is ignored silently. If a resumed run repeated an
    epoch, the later line counts.

    Returns:
        The numbers of each epoch, and what is wrong with their file (None: nothing).
    """
    path = Path(folder) / "epochs.jsonl"
    if not path.exists():
        return [], None
    try:
        lines = read_text(path).split("\n")
    except UnreadableError as error:
        return [], f"epochs.jsonl {error}"
    epochs, bad = {}, 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            # A line that a killed process did not finish has no newline, and so is the last one.
            bad += number + 1 < len(lines)
            continue
        epoch = values.get("epoch") if isinstance(values, dict) else None
        if as_number(epoch) is None:
            bad += 1
            continue
        epochs[epoch] = {str(k): v for k, v in values.items() if as_number(v) is not None}
    return [epochs[e] for e in sorted(epochs)], f"epochs.jsonl has {bad} unreadable lines" if bad else None


def as_number(value: Any) -> int | float | None:
    """Returns the value if it is a finite number, not a bool, small enough to be squared and summed; else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < LARGEST else None
