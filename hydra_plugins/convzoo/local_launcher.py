"""The launcher of a sweep on one machine, and what all of convzoo's launchers share."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.convzoo._composition import Composition, as_typed
from zoo.errors import ConvzooError
from zoo.text import typed


@dataclass
class LocalLauncherConf:
    """Configures `LocalLauncher`.

    Attributes:
        jobs: Processes at a time; ``auto``: one a core, with one thread each.
        jobs_per_gpu: Jobs that share a GPU; ``auto``: as many as its memory holds.
        pool: Whether jobs are forked from a process that has imported everything already.
        stagger_s: Seconds between two starts without the pool.
    """

    _target_: str = "hydra_plugins.convzoo.local_launcher.LocalLauncher"
    jobs: Any = "auto"
    jobs_per_gpu: Any = "auto"
    pool: Any = True
    stagger_s: float = 0.5


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="convzoo")


class SweepLauncher(Launcher):
    """Composes the jobs of a sweep, and hands them to `lightning_modules.sweep`.

    Attributes:
        raise_on_failure: Whether a job that did not complete is an error in the end. A sweeper that searches goes on.
    """

    raise_on_failure = True

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def engine(self, folder: Path) -> Any:
        """Where the jobs run: a `lightning_modules.sweep.driver.Engine`."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Runs a batch of jobs and prints a table of them.

        Raises:
            ConvzooError: An override that no job could start with (before any job starts), or jobs that did not
                complete (after all have ended).
        """
        # The import is here because Hydra imports this file at every start.
        from lightning_modules.config.schema import SweepOptions
        from lightning_modules.sweep.driver import run_sweep
        from lightning_modules.sweep.jobs import not_completed

        setup_globals()
        folder = Path(str(self.config.hydra.sweep.dir))
        # Before the jobs are composed: its processes import meanwhile.
        engine = self.engine(folder)
        composition = Composition.of(self.config.hydra)
        jobs = [
            self._compose(composition, initial_job_idx + i, list(given), folder)
            for i, given in enumerate(job_overrides)
        ]
        _check_folders(jobs)
        shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
        for job in jobs:
            job.label = " ".join(o for o in job.overrides if o not in shared)
        sweep = SweepOptions.of(OmegaConf.to_container(self.config.sweep, resolve=True), "sweep")
        again = composition.command(sys.argv[1:])
        run_sweep(jobs, engine, sweep, folder, again, search=not self.raise_on_failure)
        if sweep.plan:
            return []
        failed = not_completed(jobs)
        _show_table(jobs, failed, folder)
        if failed and self.raise_on_failure:
            names = "\n  ".join(job.name for job in failed)
            runs = sum(job.runs for job in jobs)
            raise ConvzooError(
                f"{len(failed)} of {runs} jobs did not complete:\n  {names}\nThe same command runs these again."
            )
        return [_returned(job, jobs, search=not self.raise_on_failure) for job in jobs]

    def _compose(self, composition: Composition, number: int, overrides: list[str], folder: Path) -> Any:
        from lightning_modules.config.identity import cell_id
        from lightning_modules.config.schema import CellSpec
        from lightning_modules.sweep.jobs import Job

        # That this is a sweep is said of the sweep, and not of its jobs.
        shared = [o for o in as_typed(self.config.hydra.overrides.hydra) if not o.startswith("hydra.mode=")]
        name, loader = self.config.hydra.job.config_name, self.hydra_context.config_loader
        config = loader.load_configuration(name, [*shared, *overrides], RunMode.RUN)
        OmegaConf.copy_cache(from_config=self.config, to_config=config)
        # Where the configuration asks for a sweep by itself, each of its jobs would be one.
        own = overrides if config.hydra.mode is None else [*overrides, "hydra.mode=RUN"]
        with open_dict(config):
            config.hydra.job.num = number
            settings = _resolved(config)
            # The same cell has the same folder, wherever it stands in a sweep.
            spec = CellSpec.of(settings)
            config.hydra.job.id = cell_id(spec)
        if "hydra:job.num" in str(OmegaConf.to_container(OmegaConf.masked_copy(config, list(settings)))):
            composition = composition.also(f"hydra.job.num={number}")
        folder = folder / str(config.hydra.sweep.subdir).replace("/", "_")
        words, reproduce = [*composition.words(), *own], composition.command([*composition.meant(), *own])
        return Job(number, overrides, spec, folder, words, reproduce)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """The settings of a job, as the job itself will find them: with ``${hydra:…}``, and with its environment."""
    hydra, before = config.hydra, HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    del config.hydra
    try:
        with env_override(hydra.job.env_set):
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    finally:
        HydraConfig.instance().cfg, config.hydra = before, hydra
        OmegaConf.set_readonly(config.hydra, False)


def _check_folders(jobs: Sequence[Any]) -> None:
    """Refuses jobs that differ and would have one folder: the second one would meet the first one's result."""
    seen: dict[Path, Any] = {}
    for job in jobs:
        other = seen.setdefault(job.folder, job)
        if other.id != job.id:
            raise ConvzooError(
                f"jobs {other.number} and {job.number} would both have the folder {typed(job.folder)}. Leave out "
                "hydra.sweep.subdir, or let it end in ${hydra.job.id}."
            )


class LocalLauncher(SweepLauncher):
    """Runs each job as ``python train.py OVERRIDES`` in its own process."""

    def __init__(
        self, jobs: int | str = "auto", jobs_per_gpu: int | str = "auto", pool: bool = True, stagger_s: float = 0.5
    ) -> None:
        self.jobs, self.jobs_per_gpu, self.wants_pool, self.stagger_s = jobs, jobs_per_gpu, pool, stagger_s
        self.pool = None

    def engine(self, folder: Path) -> Any:
        from lightning_modules.sweep.local import LocalEngine
        from lightning_modules.sweep.pool import Pool

        if not isinstance(self.wants_pool, bool):
            raise ConvzooError(f"hydra.launcher.pool={self.wants_pool} is not allowed. Allowed: true, false")
        # A search launches batch after batch.
        self.pool = self.pool or Pool(self.wants_pool, "hydra_plugins.convzoo._cli:warm_up")
        return LocalEngine(self.jobs, self.jobs_per_gpu, self.stagger_s, folder.name, self.pool)


def _show_table(jobs: list[Any], failed: list[Any], folder: Path) -> None:
    from zoo.report import load_results, print_table

    print_table(load_results([folder]))
    runs = sum(job.runs for job in jobs)
    path = os.path.relpath(folder)
    print(f"{runs - len(failed)} of {runs} jobs completed. Compare: python -m zoo report {typed(path)}")


def _returned(job: Any, jobs: list[Any], search: bool) -> JobReturn:
    overrides = job.overrides
    if job.excluded and not search:
        # Nothing went wrong: Hydra's own sweeper would raise what a failed job holds. No optimizer takes a NaN.
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=math.nan)
    if job.same_as is not None:
        job = next(other for other in jobs if other.number == job.same_as)
    result = job.result()
    returned = JobReturn(overrides=overrides, status=JobStatus.FAILED, working_dir=str(job.folder))
    if result.get("status") == "completed":
        returned.status, returned.return_value = JobStatus.COMPLETED, result["metrics"].get("test/acc")
    else:
        returned.return_value = ConvzooError(f"{job.name}: {job.excluded or result.get('error', 'did not run')}")
    return returned
