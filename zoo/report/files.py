"""Reads the files of runs robustly: truncated, with wrong types, or malicious."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

from zoo.errors import reason
from zoo.text import clean

LIMIT = 64 * 2**20
"""Maximum size of a file in bytes; a result has a few thousand."""
LARGEST = 1e100

Value = str | int | float


class UnreadableError(ValueError):
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
            raise UnreadableError("is not a file")
        if found.st_size > LIMIT:
            raise UnreadableError(f"has {found.st_size / 2**20:.0f} MiB; {LIMIT // 2**20} are allowed")
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise UnreadableError(reason(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UnreadableError: As for `read_text`, or the content is not JSON, or not an object.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is not JSON: {clean(error, 200)}") from None
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
        # A line that a killed process did not finish has no newline, and so is the last one.
        *lines, last = read_text(path).split("\n")
    except UnreadableError as error:
        return [], f"{path.name} {error}"
    found = [_epoch(line) for line in lines if line.strip()]
    bad = found.count(None)
    epochs = {epoch["epoch"]: epoch for epoch in [*found, _epoch(last)] if epoch}
    return [epochs[e] for e in sorted(epochs)], f"{path.name} has {bad} unreadable lines" if bad else None


def _epoch(line: str) -> dict[str, float] | None:
    """Returns the numbers of one line, which has the key ``epoch``; None if it cannot be read."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = numbers(values, "")[0]
    return found if "epoch" in found else None


def as_number(value: Any) -> int | float | None:
    """Returns the value if it is a finite number, not a bool, small enough to be squared and summed; else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < LARGEST else None


def numbers(values: Any, what: str) -> tuple[dict[str, int | float], tuple[str, ...]]:
    """Returns the finite numbers of a dict, and messages about other values. Ignores None, which NaN is written as."""
    if values is None:
        return {}, ()
    if not isinstance(values, dict):
        return {}, (f"{what} is a {type(values).__name__}, not an object",)
    found = {clean(k, 80): n for k, v in values.items() if (n := as_number(v)) is not None}
    wrong = [(k, v) for k, v in values.items() if v is not None and as_number(v) is None]
    return found, tuple(f"{what}: {clean(k, 80)} is {clean(repr(v), 80)}, not a usable number" for k, v in wrong)


def flat(values: Any) -> dict[str, Value]:
    """Converts choices to texts and finite numbers; leaves out None."""
    if not isinstance(values, dict):
        return {}
    return {clean(key, 80): _flat(value) for key, value in values.items() if value is not None}


def _flat(value: Any) -> Value:
    if isinstance(value, bool):
        return str(value).lower()
    number = as_number(value)
    return clean(value, 200) if number is None else number


def text(value: Any) -> str | None:
    """Returns a text without control characters; None for a value of another type."""
    return clean(value) if isinstance(value, str) else None
