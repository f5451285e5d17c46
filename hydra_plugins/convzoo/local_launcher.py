"""The launcher of a sweep on one machine: one fresh process per job, several at a time, none lost."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from zoo.errors import ConvzooError

GRACE_S = 20
"""Seconds that a job has to end by itself after Ctrl-C."""


@dataclass
class LocalLauncherConf:
    """Attributes: jobs: how many at once; ``auto``: one a core, with one thread each (with GPUs: one a GPU)."""

    _target_: str = "hydra_plugins.convzoo.local_launcher.LocalLauncher"
    jobs: Any = "auto"
    raise_on_failure: bool = True


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="convzoo")


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number, what it was given, where its files go."""

    number: int
    overrides: list[str]
    folder: Path

    @property
    def name(self) -> str:
        return f"#{self.number} {' '.join(self.overrides)}"


class LocalLauncher(Launcher):
    """Runs each job as ``python SCRIPT OVERRIDES`` in its own process: nothing that it does harms the others."""

    def __init__(self, jobs: int | str = "auto", raise_on_failure: bool = True) -> None:
        self.jobs, self.raise_on_failure = jobs, raise_on_failure
        self._printing = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Runs a batch of jobs and prints a table of them.

        Raises:
            ConvzooError: An override that no job could start with (before any job starts), or jobs that did not
                complete (after all have ended).
        """
        setup_globals()
        jobs = [self._plan(initial_job_idx + i, list(given)) for i, given in enumerate(job_overrides)]
        at_once = self._at_once(len(jobs))
        sweep = Path(self.config.hydra.sweep.dir)
        print(f"sweep: {len(jobs)} jobs, {at_once} at a time, in {sweep}", flush=True)
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(self._run, job, at_once) for job in jobs]
            try:
                returns = [future.result() for future in futures]
            except KeyboardInterrupt:
                self._stop()
                raise
        self._summary(sweep, jobs, returns)
        return returns

    def _plan(self, number: int, overrides: list[str]) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        return Job(number, overrides, folder)

    def _at_once(self, jobs: int) -> int:
        wanted = self.jobs
        if wanted == "auto":
            wanted = _gpus() or len(os.sched_getaffinity(0))
        if not isinstance(wanted, int) or wanted < 1:
            raise ConvzooError(f"hydra.launcher.jobs={wanted} is not allowed. Allowed: auto, 1, 2, 3 …")
        return min(wanted, jobs)

    def _run(self, job: Job, at_once: int) -> JobReturn:
        returned = JobReturn(overrides=job.overrides, status=JobStatus.FAILED, working_dir=str(job.folder))
        if self._stopped:
            returned.return_value = ConvzooError("not started")
            return returned
        job.folder.mkdir(parents=True, exist_ok=True)
        cores = len(os.sched_getaffinity(0))
        environment = os.environ | {
            "OMP_NUM_THREADS": str(max(1, cores // at_once)),
            "CONVZOO_SWEEP": Path(self.config.hydra.sweep.dir).name,
        }
        if (gpus := _gpus()) and "CUDA_VISIBLE_DEVICES" not in os.environ and at_once > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(job.number % gpus)
        command = [sys.executable, os.path.abspath(sys.argv[0])]
        command += [f"--config-name={self.config.hydra.job.config_name}", *job.overrides]
        command += ["hydra.mode=RUN", f"hydra.run.dir={_quoted(str(job.folder))}"]
        start, log = time.monotonic(), job.folder / "log.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
            )
            self._running.add(process)
            code = process.wait()
            self._running.discard(process)
        result = _result(job.folder)
        if code == 0 and result.get("status") == "completed":
            returned.status, returned.return_value = JobStatus.COMPLETED, result["metrics"].get("test/acc")
        else:
            returned.return_value = ConvzooError(f"{job.name} ended with exit code {code}")
        self._say(job, code, result, time.monotonic() - start, log)
        return returned

    def _say(self, job: Job, code: int, result: dict[str, Any], seconds: float, log: Path) -> None:
        accuracy = result.get("metrics", {}).get("test/acc")
        status = result.get("status", "failed") if code else f"test acc {accuracy:.4f}" if accuracy else "done"
        with self._printing:
            print(f"  {job.name}: {status}, {seconds:.0f} s", flush=True)
            if code:
                last = log.read_text(errors="replace").strip().splitlines()[-5:]
                print("\n".join(f"      {line}" for line in last) + f"\n      all of it: {log}", flush=True)

    def _stop(self) -> None:
        """Starts no further job and ends those that run. Ctrl-C in a terminal has reached them too: once is enough."""
        self._stopped = True
        print("\nsweep: stopping; what runs writes its result first", flush=True)
        for process in list(self._running):
            try:
                process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.terminate()

    def _summary(self, sweep: Path, jobs: list[Job], returns: list[JobReturn]) -> None:
        from zoo.report import load_results, print_table

        if any((job.folder / "result.json").exists() for job in jobs):
            print_table(load_results([job.folder for job in jobs if (job.folder / "result.json").exists()]))
        failed = [job for job, r in zip(jobs, returns, strict=True) if r.status != JobStatus.COMPLETED]
        print(f"{len(jobs) - len(failed)} of {len(jobs)} jobs completed. Compare: python -m zoo report {sweep}")
        if failed and self.raise_on_failure:
            names = "\n  ".join(job.name for job in failed)
            raise ConvzooError(f"{len(failed)} of {len(jobs)} jobs did not complete:\n  {names}")


def _result(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def _quoted(path: str) -> str:
    """A value that Hydra's grammar reads back as it is."""
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _gpus() -> int:
    """GPUs that a job could use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
