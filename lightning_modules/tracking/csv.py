"""Log a run's metrics to ``metrics.csv``, keeping all rows across stops and resumes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_modules.results.files import RetryWriter, write_whole
from lightning_modules.tracking.base import Outcome, RunLogger

NAME = "metrics.csv"
STEP = "step"

Row = dict[str, str]


class CsvRows(RunLogger):
    """Logger for ``metrics.csv`` that keeps the rows of earlier starts and survives a full disk.

    Lightning's own CSVLogger deletes earlier rows, and a full disk ends its run. A killed run, once resumed, logs the
    steps since its last checkpoint again: the file contains both rows until the run ends, and then only the later one.

    Args:
        folder: The run's folder.
        resumed: True if training continues an earlier start, whose rows are then kept.
    """

    def __init__(self, folder: str | os.PathLike[str], resumed: bool = False) -> None:
        super().__init__()
        self.path = Path(folder, NAME)
        self._patience = RetryWriter()
        self._rows: dict[tuple[str, ...], Row] = {}
        for row in _read(self.path) if resumed else ():
            self._rows[_key(row)] = row
        values = [{key: value for key, value in row.items() if key != STEP} for row in self._rows.values()]
        self._before = {tuple(sorted(row)): row for row in values}
        self._columns = sorted({STEP}.union(*self._rows.values()))
        self._whole = False
        """Whether the file has the current columns and no incomplete row."""

    @property
    def name(self) -> str:
        return "csv"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {key: repr(value if isinstance(value, int) else float(value)) for key, value in metrics.items()}
        # Every start logs constant metrics such as costs at its first step; keep the earlier row only.
        if self._before.pop(tuple(sorted(row)), None) == row:
            return
        row |= {} if step is None else {STEP: str(step)}
        self._rows[_key(row)] = row
        if new := row.keys() - set(self._columns):
            self._columns, self._whole = sorted(new.union(self._columns)), False
        self._whole = self._append(row) if self._whole else self._write_all()

    def finish(self, outcome: Outcome) -> None:
        """Log the final metrics and rewrite the file without duplicate rows."""
        if outcome.metrics:
            self.log_metrics(outcome.metrics)
        self._write_all()

    def _append(self, row: Row) -> bool:
        text = self._text([row])

        def write() -> None:
            with self.path.open("a") as file:
                file.write(text)

        return self._patience.attempt(write, self.path, len(text))

    def _write_all(self) -> bool:
        text = self._text([dict(zip(self._columns, self._columns, strict=True)), *self._rows.values()])
        return self._patience.attempt(lambda: write_whole(self.path, text), self.path, len(text))

    def _text(self, rows: list[Row]) -> str:
        out = io.StringIO()
        csv.DictWriter(out, self._columns, lineterminator="\n").writerows(rows)
        return out.getvalue()


def _key(row: Row) -> tuple[str, ...]:
    """Return a row's identity: its step and the names of its metrics."""
    return (row.get(STEP, ""), *sorted(row))


def _read(path: Path) -> list[Row]:
    """Read the rows without empty cells, skipping a last line that a kill has truncated."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(lines)]
