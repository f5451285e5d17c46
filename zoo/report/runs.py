"""One run: what its ``result.json`` says, whatever state that is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.report.checksum import unseal
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
"""What a run can be, and what that means."""

Value = str | int | float


@dataclass(frozen=True)
class Run:
    """One run or job.

    Attributes:
        folder: Where its files are (or will be).
        status: One of `STATUSES`.
        cell: Its choices, flat.
        recipe: What else influences the result (data, optimiser, trainer); None where nothing says.
        metrics: Finite numbers only.
        environment: Where it ran.
        command: What reproduces it.
        error: Why it did not complete, or why it is excluded.
        number: Of the job in its sweep.
        same_as: Folder of the run that was trained in its place, because it is the same network with the same recipe.
        problems: What was wrong with its files, though it could be read.
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
        """Its finished epochs (see `read_epochs`), and what is wrong with their file."""
        return read_epochs(self.same_as or self.folder)


def read_run(folder: Path) -> Run:
    """The run that left a ``result.json`` in a folder; ``unreadable``, with the reason, where that cannot be used."""
    try:
        result = unseal(read_object(folder / "result.json"))
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
    """Choices as texts and finite numbers; what is None is left out."""
    flat: dict[str, Value] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if value is not None:
            number = as_number(value)
            text = str(value).lower() if isinstance(value, bool) else value
            flat[clean(key, 80)] = number if number is not None else clean(text, 200)
    return flat


def numbers(values: Any, what: str) -> tuple[dict[str, int | float], tuple[str, ...]]:
    """The finite numbers of a dict, and what is no number. None (a NaN when it was written) is neither."""
    if values is None:
        return {}, ()
    if not isinstance(values, dict):
        return {}, (f"{what} is a {type(values).__name__}, not an object",)
    numbers = {clean(k, 80): n for k, v in values.items() if (n := as_number(v)) is not None}
    wrong = [k for k, v in values.items() if v is not None and as_number(v) is None]
    return numbers, tuple(
        f"{what}: {clean(k, 80)} is {clean(repr(values[k]), 80)}, not a number to compute with" for k in wrong
    )
