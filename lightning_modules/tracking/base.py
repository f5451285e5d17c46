"""What convzoo asks of a logger beyond Lightning's interface: to end with the run's real outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.loggers import Logger


@dataclass(frozen=True)
class Outcome:
    """How a run ended: metrics and status of its result, its exit code, and whether a scheduler will start it again."""

    metrics: dict[str, float]
    status: str
    code: int = 0
    requeued: bool = False


class RunLogger(Logger):
    """A Lightning logger for one run; as it stands, it drops everything.

    Lightning's ``finalize`` cannot take the place of `finish`: it is called after every fit and test, without the exit
    code.

    Attributes:
        entry: What ``result.json`` says about this logger, as top-level keys.
    """

    def __init__(self, entry: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.entry = entry or {}

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: object, **__: object) -> None:
        """Do nothing: the run's files contain the hyper-parameters."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row; ``step`` is the number of optimizer steps so far, None if the row belongs to no step."""

    def finish(self, outcome: Outcome) -> None:
        """Log the final metrics and end the run."""
