"""Profile a run (``trainer.profiler``) with Lightning's profilers, which report into the run's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from zoo.log import log
from zoo.ranks import global_rank
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
        except Exception as error:  # a profiler's own code, which may parse anything and writes to a disk
            message = f"trainer.profiler: the report of {self._stage} was not written ({error})"
            log.warning(message, extra={"every_rank": True})


class _Simple(_Once, SimpleProfiler):
    pass


class _Advanced(_Once, AdvancedProfiler):
    pass


class _PyTorch(_Once, PyTorchProfiler):
    pass


PROFILERS = {"simple": _Simple, "advanced": _Advanced, "pytorch": _PyTorch}


def make_profiler(name: str, folder: Path) -> Profiler:
    """Create the profiler with this name, one of `PROFILERS`; it writes into a folder."""
    return PROFILERS[name](dirpath=str(folder), filename=REPORT)


@contextmanager
def profiled(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Write the last report and log where the reports are, however the profiled block ends."""
    began = time.time()
    try:
        yield
    finally:
        if isinstance(trainer.profiler, _Once):
            trainer.profiler.describe()
            new = sorted(path.name for path in folder.glob(f"*{REPORT}*") if path.stat().st_mtime >= began)
            if new:
                log.info(f"trainer.profiler: {', '.join(new)} in {typed(folder)}")
