"""Launch a sweep on one machine; also the base class of all convzoo launchers."""

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
    """Configuration of `LocalLauncher`.

    Attributes:
        jobs: Maximum number of processes at a time; ``auto``: one per core, with one thread each.
        jobs_per_gpu: Jobs that share a GPU; ``auto``: as many as fit into its memory.
        pool: Whether to fork jobs from a process that has already imported everything.
        stagger_s: Seconds between two starts without the pool.
    """

    _target_: str = "hydra_plugins.convzoo.local_launcher.LocalLauncher"
    jobs: Any = "auto"
    jobs_per_gpu: Any = "auto"
    pool: Any = True
    stagger_s: float = 0.5


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="convzoo")


class SweepLauncher(Launcher):
    """Base class of launchers: composes the jobs of a sweep and runs them with `lightning_modules.sweep`.

    Attributes:
        raise_on_failure: Whether to raise an error at the end if a job did not complete. A search sets it to False and
            continues.
    """

    raise_on_failure = True

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def engine(self, folder: Path) -> Any:
        """Return the `lightning_modules.sweep.driver.Engine` that runs the jobs.

        Args:
            folder: The sweep's folder.
        """
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run a batch of jobs and print a table of their results.

        Args:
            job_overrides: The overrides of each job.
            initial_job_idx: Number of the first job.

        Returns:
            One result per job, with the test accuracy as value; an empty list for ``sweep.plan=true``.

        Raises:
            ConvzooError: A job has an invalid override (no job has started), or jobs did not complete (all have ended).
        """
        # Imported here, because Hydra imports this file at every start.
        from lightning_modules.config.schema import SweepOptions
        from lightning_modules.sweep.driver import run_sweep
        from lightning_modules.sweep.jobs import not_completed

        setup_globals()
        folder = Path(str(self.config.hydra.sweep.dir))
        # Created before the jobs are composed, so that its pool imports in the meantime.
        engine = self.engine(folder)
        composition = Composition.of(self.config.hydra)
        # Label each job by what tells it apart from the others.
        shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        jobs = []
        for number, given in enumerate(job_overrides, initial_job_idx):
            label = " ".join(o for o in given if o not in shared)
            try:
                jobs.append(self._compose(composition, number, list(given), folder))
            except ConvzooError as error:
                raise ConvzooError(f"#{number} {label or ' '.join(given)}: {error}") from None
            jobs[-1].label = label
        _check_folders(jobs)
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

        # hydra.mode applies to the sweep, not to its jobs.
        shared = [o for o in as_typed(self.config.hydra.overrides.hydra) if not o.startswith("hydra.mode=")]
        name, loader = self.config.hydra.job.config_name, self.hydra_context.config_loader
        config = loader.load_configuration(name, [*shared, *overrides], RunMode.RUN)
        OmegaConf.copy_cache(from_config=self.config, to_config=config)
        # If the configuration itself sets MULTIRUN, each job would start a sweep.
        own = overrides if config.hydra.mode is None else [*overrides, "hydra.mode=RUN"]
        with open_dict(config):
            config.hydra.job.num = number
            settings = _resolved(config)
            # The folder depends on the cell, not on its position in the sweep.
            spec = CellSpec.of(settings)
            config.hydra.job.id = cell_id(spec)
        if "hydra:job.num" in str(OmegaConf.to_container(OmegaConf.masked_copy(config, list(settings)))):
            composition = composition.also(f"hydra.job.num={number}")
        folder = folder / str(config.hydra.sweep.subdir).replace("/", "_")
        words, reproduce = [*composition.words(), *own], composition.command([*composition.meant(), *own])
        return Job(number, overrides, spec, folder, words, reproduce)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Resolve a job's settings as the job itself will, with ``${hydra:…}`` and the job's environment variables."""
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
    """Raise ConvzooError if different jobs share a folder: the second would find the first one's result there."""
    seen: dict[Path, Any] = {}
    for job in jobs:
        other = seen.setdefault(job.folder, job)
        if other.id != job.id:
            raise ConvzooError(
                f"jobs {other.number} and {job.number} would both have the folder {typed(job.folder)}. Leave out "
                "hydra.sweep.subdir, or let it end in ${hydra.job.id}."
            )


class LocalLauncher(SweepLauncher):
    """Runs each job as ``python train.py OVERRIDES`` in its own process; see `LocalLauncherConf` for the options."""

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
        # Reuse the pool: a search launches one batch after another.
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
        # Exclusion is no failure, and Hydra's sweeper would raise a failed job's error. NaN: no accuracy to optimize.
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
