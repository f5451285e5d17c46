"""Profile a run (``trainer.profiler``) with Lightning's profilers, which report into the run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from lightning_modules.hardware.devices import global_rank
from zoo.text import typed

REPORT = "profile"
"""Part of the name of every file a profiler writes: ``fit-profile.txt``, ``test-profile.txt``, traces."""


class _Once:
    """Mixin that writes each stage's report exactly once, even if the stage was stopped, and never fails the run."""

    _waits = False

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        # Name the file by global rank: ranks of several nodes share a folder.
        super().setup(stage, None if local_rank is None else global_rank(), log_dir)
        self._waits = True

    def describe(self) -> None:
        if not self._waits:
            return
        self._waits = False
        try:
            super().describe()
        except Exception as error:
            print(f"trainer.profiler: the report of {self._stage} was not written ({error})", flush=True)


class _Simple(_Once, SimpleProfiler):
    pass


class _Advanced(_Once, AdvancedProfiler):
    pass


class _PyTorch(_Once, PyTorchProfiler):
    pass


PROFILERS = {"simple": _Simple, "advanced": _Advanced, "pytorch": _PyTorch}


def make_profiler(name: str, folder: Path) -> Profiler:
    """Create one of Lightning's profilers that writes into a folder.

    Args:
        name: One of `PROFILERS`.
        folder: The run's folder.
    """
    return PROFILERS[name](dirpath=str(folder), filename=REPORT)


@contextmanager
def profiled(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Write the last report and print where the reports are, however the profiled block ends."""
    if not isinstance(trainer.profiler, _Once):
        yield
        return
    before = _written(folder)
    try:
        yield
    finally:
        trainer.profiler.describe()
        new = sorted(name for name, when in _written(folder).items() if before.get(name) != when)
        if new and trainer.is_global_zero:
            print(f"trainer.profiler: {', '.join(new)} in {typed(folder)}", flush=True)


def _written(folder: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder) if REPORT in entry.name}
