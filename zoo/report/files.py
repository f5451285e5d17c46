"""Reads what runs left behind, whatever state it is in: cut, of wrong types, hostile."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

from zoo.text import clean

LIMIT = 64 * 2**20
"""Bytes that a file may have; a result has a few thousand."""
LARGEST = 1e100


class UnreadableError(Exception):
    """A file that cannot be used; its text says why."""


def read_text(path: Path) -> str:
    """The text of a regular file; bytes that are no UTF-8 are replaced.

    Raises:
        UnreadableError: It is missing, no file, too large, or may not be read.
    """
    try:
        found = path.stat()
        # A pipe would wait for a writer for ever.
        if not S_ISREG(found.st_mode):
            raise UnreadableError("is no file")
        if found.st_size > LIMIT:
            raise UnreadableError(f"has {found.st_size / 2**20:.0f} MiB; {LIMIT // 2**20} are allowed")
        return path.read_text("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UnreadableError: As above, or it is no JSON, or no object.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is no JSON: {clean(error, 200)}") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"holds a {type(value).__name__}, not an object")
    return value


def read_epochs(folder: str | Path) -> tuple[list[dict[str, float]], str | None]:
    """The finished epochs of a run, in order, and what is wrong with their file.

    A line that was cut while it was written (the last one) is left out silently. Where a resumed run repeated an epoch,
    the later line counts.
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
            # What a process that was killed had not written to the end has no newline.
            bad += number + 1 < len(lines)
            continue
        epoch = values.get("epoch") if isinstance(values, dict) else None
        if as_number(epoch) is None:
            bad += 1
            continue
        epochs[epoch] = {str(k): v for k, v in values.items() if as_number(v) is not None}
    return [epochs[e] for e in sorted(epochs)], f"epochs.jsonl has {bad} unreadable lines" if bad else None


def as_number(value: Any) -> int | float | None:
    """The value if it is a finite number (no bool) that can be squared and summed, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < LARGEST else None
