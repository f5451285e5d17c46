"""Reads one run from its ``result.json``, even if that is damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.report.checksum import check_checksum
from zoo.report.files import UnreadableError, as_number, read_epochs, read_object
from zoo.text import clean

STATUSES = {
    "completed": "trained and tested",
    "running": "at work now",
    "waiting": "planned and not yet started",
    "failed": "ended with an error",
    "interrupted": "was stopped; the same command continues it",
    "lost": "started, and ended without a result",
    "unreadable": "has a result that cannot be read",
    "excluded": "left out by a rule of the sweep",
}
"""Status of a run → its meaning."""

Value = str | int | float


@dataclass(frozen=True)
class Run:
    """One run or job.

    Attributes:
        folder: Where its files are (or will be).
        status: One of `STATUSES`.
        cell: Its choices, as a flat dict.
        recipe: Everything else that affects the result (data, optimiser, trainer); None if unknown.
        metrics: Its metrics; finite numbers only.
        environment: Hardware and software that it ran on.
        command: The command that reproduces it.
        error: Why it did not complete, or why it is excluded.
        number: Number of the job in its sweep.
        same_as: Folder of the run trained in its place, because it has the same network and recipe.
        problems: Defects of its files that did not prevent reading them.
    """

    folder: str
    status: str
    cell: dict[str, Value] = field(default_factory=dict)
    recipe: dict[str, Value] | None = None
    metrics: dict[str, int | float] = field(default_factory=dict)
    environment: dict[str, Value] = field(default_factory=dict)
    command: str | None = None
    error: str | None = None
    number: int | None = None
    same_as: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def seed(self) -> Value | None:
        return self.cell.get("seed")

    def epochs(self) -> tuple[list[dict[str, float]], str | None]:
        """Reads its finished epochs, and what is wrong with their file (see `read_epochs`)."""
        return read_epochs(self.same_as or self.folder)


def read_run(folder: Path) -> Run:
    """Reads the run whose ``result.json`` is in a folder; if it cannot be used, ``unreadable`` with the reason."""
    try:
        result = check_checksum(read_object(folder / "result.json"))
    except (UnreadableError, ValueError) as error:
        return Run(clean(folder), "unreadable", error=f"result.json {error}")
    metrics, problems = numbers(result.get("metrics"), "metrics")
    status, error = result.get("status"), result.get("error")
    if not isinstance(status, str) or status not in STATUSES:
        status, error = "unreadable", f"result.json has the status {clean(status, 80)}"
    environment = result.get("environment")
    command = result.get("command")
    return Run(
        folder=clean(folder),
        status=status,
        cell=flat(result.get("cell")),
        recipe=flat(result.get("recipe")) or None,
        metrics=metrics,
        environment=flat(environment) if isinstance(environment, dict) else {},
        command=clean(command) if isinstance(command, str) else None,
        error=clean(error) if error is not None else None,
        problems=problems,
    )


def flat(values: Any) -> dict[str, Value]:
    """Converts choices to texts and finite numbers; leaves out None."""
    flat: dict[str, Value] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if value is not None:
            number = as_number(value)
            text = str(value).lower() if isinstance(value, bool) else value
            flat[clean(key, 80)] = number if number is not None else clean(text, 200)
    return flat


def numbers(values: Any, what: str) -> tuple[dict[str, int | float], tuple[str, ...]]:
    """Returns the finite numbers of a dict, and messages about other values. Ignores None, which NaN is written as."""
    if values is None:
        return {}, ()
    if not isinstance(values, dict):
        return {}, (f"{what} is a {type(values).__name__}, not an object",)
    numbers = {clean(k, 80): n for k, v in values.items() if (n := as_number(v)) is not None}
    wrong = [k for k, v in values.items() if v is not None and as_number(v) is None]
    return numbers, tuple(
        f"{what}: {clean(k, 80)} is {clean(repr(values[k]), 80)}, not a number to compute with" for k in wrong
    )
