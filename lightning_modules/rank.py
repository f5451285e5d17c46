"""Runs one rank of a distributed run: ``python -m lightning_modules.rank FOLDER``, started by `launch_ranks`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from lightning_modules.checkpoint.resume import find_last
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.ddp import PARENT
from lightning_modules.hardware.devices import global_rank, resolve_hardware
from lightning_modules.hardware.process import keep_memory, keep_output
from lightning_modules.hardware.signals import StopSignals
from lightning_modules.run import JOB_FILE, run_rank
from zoo.errors import ConvzooError
from zoo.plugins import load_plugins


@record  # launch_ranks reads the error of the rank that failed first
def main() -> None:
    signals = StopSignals(wait=True)
    signals.install()
    keep_memory()
    keep_output()
    folder = Path(sys.argv[1])
    job = json.loads((folder / JOB_FILE).read_text())
    spec, signals.begun = CellSpec.of(job["config"]), job["begun"]
    load_plugins(spec.plugins)
    hardware = resolve_hardware(spec.hardware, spec.trainer)
    last = find_last(folder, spec, say=global_rank() == 0)
    run_rank(spec, folder, job["command"], hardware, signals, last)


def _end_with(parent: int) -> None:
    """Exits when the parent has died: nothing would watch this rank, and the lock on the run's folder is free."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _plain(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Excepthook that leaves user errors to the parent, which reports them once."""
    if not issubclass(kind, ConvzooError):
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _plain
    # Not os.getppid(): the parent may have exited already.
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    main()
