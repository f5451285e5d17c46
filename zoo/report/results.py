"""Finds and reads all runs in or below some folders, finished or not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from zoo.errors import ConvzooError
from zoo.report.runs import Run, read_run
from zoo.report.sweep import read_sweep
from zoo.text import clean

SKIPPED = ("wandb", "__pycache__")


def load_results(folders: Iterable[str | Path]) -> list[Run]:
    """Reads all runs in or below the folders: each ``result.json``, and each job of a ``sweep.json`` without one.

    A file that cannot be used becomes a run with the status ``unreadable`` and the reason; the others are still read.

    Raises:
        ConvzooError: A folder does not exist, or there is no run in any of them.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        try:
            problem = None if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
        except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
            problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        if problem:
            raise ConvzooError(f"{clean(folder, 200)} {problem}.")
    # By folder and number: a folder may be given twice, and several jobs may have no folder of their own.
    runs: dict[tuple[str, int | None], Run] = {}
    results: list[Path] = []
    for folder in folders:
        sweeps, found = _find(folder)
        results += found
        for sweep in sweeps:
            for run in read_sweep(sweep):
                runs.setdefault((os.path.realpath(run.folder), run.number), run)
    planned = {where for where, _ in runs}
    for folder in results:
        if (where := os.path.realpath(folder)) not in planned:
            runs.setdefault((where, None), read_run(folder))
    if not runs:
        raise ConvzooError("no result.json and no sweep.json in or below " + ", ".join(map(str, folders)) + ".")
    return list(runs.values())


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the folders with a sweep.json, and the folders with a result.json."""
    sweeps, results = [], []
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in SKIPPED)
        if "sweep.json" in files:
            sweeps.append(Path(where))
        if "result.json" in files:
            results.append(Path(where))
    return sweeps, results
