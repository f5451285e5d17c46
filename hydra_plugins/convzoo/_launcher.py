"""Define the base class of convzoo's launchers.

The underscore in this file's name keeps it out of Hydra's scan for plugins.
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, env_override, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.convzoo._composition import Composition, as_typed, program
from zoo.errors import ConvzooError
from zoo.text import typed


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
        from zoo.report import load_results, print_table

        setup_globals()
        folder = Path(str(self.config.hydra.sweep.dir))
        # Created before the jobs are composed, so that its pool imports in the meantime.
        engine = self.engine(folder)
        jobs = self._compose_all(job_overrides, initial_job_idx, folder)
        sweep = SweepOptions.of(OmegaConf.to_container(self.config.sweep, resolve=True), "sweep")
        again = Composition.of(self.config.hydra).command(sys.argv[1:])
        run_sweep(jobs, engine, sweep, folder, again, search=not self.raise_on_failure)
        if sweep.plan:
            return []
        runs, failed = sum(job.runs for job in jobs), not_completed(jobs)
        print_table(load_results([folder]))
        path = typed(os.path.relpath(folder))
        print(f"{runs - len(failed)} of {runs} jobs completed. To compare them, type: {program('report')} {path}")
        if failed and self.raise_on_failure:
            names = "\n  ".join(job.name for job in failed)
            raise ConvzooError(
                f"{len(failed)} of {runs} jobs did not complete:\n  {names}\nThe same command runs these again."
            )
        return [self._returned(job, jobs) for job in jobs]

    def _compose_all(self, job_overrides: Sequence[Sequence[str]], first: int, folder: Path) -> list[Any]:
        # Label each job by what tells it apart from the others.
        shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        jobs = []
        for number, given in enumerate(job_overrides, first):
            label = " ".join(o for o in given if o not in shared)
            try:
                jobs.append(self._compose(number, list(given), folder))
            except ConvzooError as error:
                raise ConvzooError(f"#{number} {label or ' '.join(given)}: {error}") from None
            jobs[-1].label = label
        _check_folders(jobs)
        return jobs

    def _compose(self, number: int, overrides: list[str], folder: Path) -> Any:
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
        composition = Composition.of(self.config.hydra)
        if "hydra:job.num" in str(OmegaConf.to_container(OmegaConf.masked_copy(config, list(settings)))):
            composition = composition.also(f"hydra.job.num={number}")
        folder = folder / str(config.hydra.sweep.subdir).replace("/", "_")
        words, reproduce = [*composition.words(), *own], composition.command([*composition.meant(), *own])
        return Job(number, overrides, spec, folder, words, reproduce)

    def _returned(self, job: Any, jobs: Sequence[Any]) -> JobReturn:
        returned = JobReturn(overrides=job.overrides, status=JobStatus.FAILED, working_dir=str(job.folder))
        if job.excluded and self.raise_on_failure:
            # An excluded job has not failed, and Hydra's sweeper would raise its error. NaN: no accuracy to optimize.
            returned.status, returned.return_value = JobStatus.COMPLETED, math.nan
            return returned
        if job.same_as is not None:
            job = next(other for other in jobs if other.number == job.same_as)
            returned.working_dir = str(job.folder)
        result = job.result()
        if result.get("status") == "completed":
            returned.status, returned.return_value = JobStatus.COMPLETED, result["metrics"].get("test/acc")
        else:
            returned.return_value = ConvzooError(f"{job.name}: {job.excluded or result.get('error', 'did not run')}")
        return returned


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
                f"jobs {other.number} and {job.number} would share the folder {typed(job.folder)}. Omit "
                "hydra.sweep.subdir, or end it with ${hydra.job.id}."
            )
