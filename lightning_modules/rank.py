"""Runs one rank of a distributed run: ``python -m lightning_modules.rank FOLDER JOB``, started by `launch_ranks`.

JOB is the configuration, the command and the start time, as JSON.
"""

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
from lightning_modules.hardware.ddp import PARENT, USER_ERROR
from lightning_modules.hardware.devices import resolve_hardware
from lightning_modules.hardware.process import keep_memory, keep_output
from lightning_modules.hardware.signals import StopSignals
from lightning_modules.run import run_rank
from zoo.errors import ConvzooError
from zoo.log import set_level
from zoo.plugins import load_plugins


@record  # launch_ranks reads the error of the rank that failed first
def main() -> None:
    signals = StopSignals(wait=True)
    signals.install()
    keep_memory()
    keep_output()
    folder, job = Path(sys.argv[1]), json.loads(sys.argv[2])
    spec, signals.begun = CellSpec.of(job["config"]), job["begun"]
    load_plugins(spec.plugins)
    if spec.log:
        set_level(spec.log)
    hardware = resolve_hardware(spec.hardware, spec.trainer)
    run_rank(spec, folder, job["command"], hardware, signals, find_last(folder, spec))


def _end_with(parent: int) -> None:
    """Exits when the parent has died: nothing would watch this rank, and the lock on the run's folder is free."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    # Not os.getppid(): the parent may have exited already.
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    try:
        main()
    except ConvzooError:
        sys.exit(USER_ERROR)  # the parent reports the error, once
