"""Benchmark the time from command to first optimizer step: train.py, a usual template, and a sweep's next job.

All use the same network (MobileNetV2) and W&B offline. Takes about three minutes.

    python benchmarks/startup.py --rounds 5 --output startup.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from turns import ROOT, Turns, options, show, text, write

from lightning_modules.sweep.pool import Pool

CELL = ("model=mobilenet", "logger=wandb")
TEMPLATE = "Lightning + Hydra + W&B template"
HOW = ("wall", "cpu")


def first_step(words: Sequence[str], pool: Pool, folder: Path) -> dict[str, float]:
    """Return the wall and CPU seconds of a command up to its first optimizer step.

    Raises:
        SystemExit: The command made no step.
    """
    file = Path(tempfile.mkdtemp(dir=folder)) / "step.json"
    environment = os.environ | {"WANDB_MODE": "offline"}
    start = time.time()
    with (folder / "log.txt").open("ab") as log, open(os.devnull, "rb") as nothing:
        command = [sys.executable, str(ROOT / "benchmarks" / "first_step.py"), str(file), *words]
        pool.popen(command, environment, nothing, log, log).wait()
    if not file.exists():
        raise SystemExit(f"no step: {' '.join(words)}\n{(folder / 'log.txt').read_text()[-2000:]}")
    found = json.loads(file.read_text())
    return {"wall": found["at"] - start, "cpu": found["cpu_s"]}


def whole(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Return the wall and CPU seconds of a command that does not train."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.perf_counter() - start, "cpu": cpu}


def main() -> None:
    given = options(__doc__, rounds=5).parse_args()
    output = given.output and given.output.resolve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        os.chdir(folder)
        fresh, pool = Pool(False), Pool(True, "hydra_plugins.convzoo._cli:warm_up")
        train, template = str(ROOT / "train.py"), str(ROOT / "benchmarks" / "plain" / "train_hydra.py")
        variants: dict[str, Callable[[], dict[str, float]]] = {
            TEMPLATE: lambda: first_step([template], fresh, folder),
            "train.py, and a sweep's job without the pool": lambda: first_step([train, *CELL], fresh, folder),
            "a sweep's next job": lambda: first_step([train, *CELL], pool, folder),
            "train.py --help": lambda: whole([train, "--help"], folder),
            "train.py, a wrong override": lambda: whole([train, "model=resent"], folder),
            "python -m zoo report --help": lambda: whole(["-m", "zoo", "report", "--help"], folder),
        }
        # Warm up: the first job of a pool waits for the pool's imports.
        variants["a sweep's next job"]()
        turns = {how: Turns(TEMPLATE, {name: [] for name in variants}) for how in HOW}
        for _ in range(given.rounds):
            for name, variant in variants.items():
                for how, seconds in variant().items():
                    turns[how].samples[name].append(seconds)
        if not pool.forks:
            raise SystemExit("the pool does not fork on this machine: there is nothing to compare")
        pool.close()
        os.chdir(ROOT)
    rows = [
        [name, *(cell for how in HOW for cell in (f"{turns[how].median(name):.2f}", text(turns[how].ratios(name))))]
        for name in variants
    ]
    show("Start", ("", "wall s", "times faster", "CPU s", "times less"), rows)
    write(output, {how: turns[how].samples for how in HOW})


if __name__ == "__main__":
    main()
