"""Benchmark the overhead of the sweep driver on Slurm: plan, submit, poll the queue, collect results.

    python tests/support/slurm_cluster.py up /tmp/slurm && export SLURM_CONF=/tmp/slurm/slurm.conf
    python benchmarks/sweep_driver.py [--jobs 1000]

The jobs are submitted on hold, so that none of them runs, and cancelled at the end. Their results are synthetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydra import compose, initialize_config_dir  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from lightning_modules.config.schema import CellSpec  # noqa: E402
from lightning_modules.results.result import write_result  # noqa: E402
from lightning_modules.sweep.jobs import Job  # noqa: E402
from lightning_modules.sweep.slurm_options import SlurmOptions  # noqa: E402
from lightning_modules.sweep.slurm_queue import Shape, SlurmQueue  # noqa: E402
from lightning_modules.sweep.slurm_task import SlurmTask  # noqa: E402
from zoo.report import load_results  # noqa: E402

GRID = ("model=resnet,effnet,mobilenet,xception", "conv=native,standard,separable,spatial,blueprint", "hardware=cpu")


def seconds(action: Callable[[], object], times: int = 1) -> float:
    """Return the median duration of an action in seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def plan(jobs: int, folder: Path) -> None:
    """Plan a sweep of this many jobs with the whole command, including imports."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *GRID, f"seed=range({jobs // 20})", "sweep.plan=true"]
    subprocess.run([*command, "hydra/launcher=slurm"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def composed() -> CellSpec:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return CellSpec.of(OmegaConf.to_container(compose("config"), resolve=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="a multiple of 20")
    number = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{number} jobs")
        print(f"plan (4 networks × 5 kinds × {number // 20} seeds): {seconds(lambda: plan(number, folder)):.1f} s")

        spec = composed()
        jobs = [Job(i, [f"seed={i}"], spec.having(seed=i), folder / "sweep" / str(i)) for i in range(number)]
        tasks = [(SlurmTask(job.folder, name, ["true"]), Shape()) for job in jobs]
        (folder / "sweep").mkdir()
        queue = SlurmQueue(folder / "sweep", SlurmOptions(extra={"hold": True}))
        print(f"submit: {seconds(lambda: queue.submit(tasks)):.2f} s")
        print(f"one look at the queue: {seconds(queue.queued, 5):.3f} s, {len(queue.queued() or {})} jobs in it")
        print(f"cancel all: {seconds(lambda: queue.cancel([job.folder for job in jobs])):.2f} s")

        for job in jobs:
            metrics = {"test/acc": 0.9, "cost/params": 1e6, "cost/macs": 1e8, "cost/activations": 1e6}
            cell = {"model": "resnet", "conv": "native", "act": "relu", "seed": job.number}
            write_result(job.folder, {"status": "completed", "id": job.id, "cell": cell, "metrics": metrics})
        print(f"status of all: {seconds(lambda: [job.status() for job in jobs], 5):.3f} s")
        print(f"read all results: {seconds(lambda: load_results([folder / 'sweep']), 5):.3f} s")
        files = sum(1 for _ in (folder / "sweep").rglob("*"))
        print(json.dumps({"files of the driver's and of submitit's, a job": round(files / number, 1)}))


if __name__ == "__main__":
    main()
