"""Search with Optuna: ``python train.py -m hydra/sweeper=search 'optim.lr=tag(log,interval(1e-4,1e-2))' …``.

It replaces Hydra 1.3's Optuna plugin, which needs Optuna 2.10, whose storages need an SQLAlchemy from before 2023.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.convzoo import _study
from hydra_plugins.convzoo._composition import Composition
from hydra_plugins.convzoo._space import Space, parse_space
from zoo.errors import ConvzooError, choose, need_packages
from zoo.log import log
from zoo.text import typed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

GAINS = ("val/acc", "test/acc")
PRICES = ("cost/params", "cost/macs", "cost/activations", "speed/latency_ms", "time/fit_s")


@dataclass
class SearchSweeperConf:
    """Configuration of `SearchSweeper`.

    Attributes:
        trials: Total number of trials, including those of earlier starts.
        batch: Trials per batch; the sampler learns from each batch before it draws the next one.
        maximize: Metric of result.json to maximize. Use val/acc: selecting by test/acc would use up the test set.
        minimize: Second objective, to minimize; null for none.
        sampler: tpe, random or nsga2.
        seed: The sampler's seed.
    """

    _target_: str = "hydra_plugins.convzoo.search.SearchSweeper"
    trials: int = 20
    batch: int = 4
    maximize: str = "val/acc"
    minimize: str | None = "cost/macs"
    sampler: str = "tpe"
    seed: int = 0


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchSweeperConf, provider="convzoo")


class SearchSweeper(Sweeper):
    """Asks Optuna for cells, runs them in batches with the configured launcher, and reports their results to Optuna.

    The study is stored next to the jobs' folders, and trial N is job N. The same command resumes the search: finished
    trials are kept, and trials that were running when it was stopped run again in their folders.
    """

    def __init__(self, trials: int, batch: int, maximize: str, minimize: str | None, sampler: str, seed: int) -> None:
        self.trials, self.batch, self.sampler, self.seed = trials, batch, sampler, seed
        self.objectives = [maximize] + ([minimize] if minimize else [])
        self.meant: list[str] = []

    def check(self) -> None:
        """Check the sweeper's own settings. Not done in ``__init__``, because Hydra wraps errors raised there.

        Raises:
            ConvzooError: A setting is invalid, or Optuna is not installed.
        """
        need_packages("search", "optuna")
        for name, number in (("trials", self.trials), ("batch", self.batch)):
            if number < 1:
                raise ConvzooError(f"hydra.sweeper.{name}={number} is not allowed. Allowed: a whole number from 1.")
        choose("hydra.sweeper.maximize", self.objectives[0], GAINS)
        for price in self.objectives[1:]:
            choose("hydra.sweeper.minimize", price, [*PRICES, "null"])
        choose("hydra.sweeper.sampler", self.sampler, _study.SAMPLERS)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.meant = Composition.of(config.hydra).meant()
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # A failed trial is a result, too.
        self.launcher.raise_on_failure = False

    def sweep(self, arguments: list[str]) -> None:
        """Run the remaining trials of the search and print the Pareto-optimal ones.

        Args:
            arguments: The overrides of the command line.

        Raises:
            ConvzooError: The search space is invalid, the folder contains another search, or no trial completed.
        """
        self.check()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = parse_space(parser.parse_overrides(arguments))
        # Report a wrong name before the first job starts and before the study is created.
        self.validate_batch_is_legal(space.corners())
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        # Imported here, because Hydra imports this file at every start.
        from lightning_modules.results.lock import Lock

        with Lock(folder / "search.lock", "a search"):
            study = _study.open_study(folder, space, self.meant, self.objectives, self.sampler, self.seed)
            waiting = _study.unfinished(study, space)
            log.info(
                f"search: {self.trials} trials ({len(study.trials) - len(waiting)} done, {len(waiting)} to run again), "
                f"{' against '.join(self.objectives)}, in {typed(folder)}"
            )
            while True:
                while len(waiting) < self.batch and len(study.trials) < self.trials:
                    waiting += _study.ask(study, space)
                if not waiting:
                    break
                batch, waiting = waiting[: self.batch], waiting[self.batch :]
                # The launcher numbers its jobs consecutively from the first one.
                for _, numbered in groupby(enumerate(batch), lambda pair: pair[1].number - pair[0]):
                    self._run(study, space, [trial for _, trial in numbered])
            tried, completed = len(study.trials), len(_study.with_state(study, "COMPLETE"))
            if not completed:
                raise ConvzooError(f"none of {tried} trials completed; {typed(folder)} has their logs.")
            from zoo import render

            render.console(200).print(_study.best_trials(study, space, self.objectives))
            print(
                f"{completed} of {tried} trials completed. To continue, type the same command with "
                f"hydra.sweeper.trials={2 * tried}."
            )

    def _run(self, study: "Study", space: Space, trials: list["FrozenTrial"]) -> None:
        """Run trials with consecutive numbers and record their results.

        Raises:
            ConvzooError: The launcher could not run them, or a job lacks a metric that the search needs.
        """
        try:
            returns = self.launcher.launch(
                [space.overrides(trial.params) for trial in trials], initial_job_idx=trials[0].number
            )
        except ConvzooError:
            # Mark them as failed, or the next start would run them again and stop here again.
            _study.fail(study, trials)
            raise
        for trial, returned in zip(trials, returns, strict=True):
            _study.tell(study, trial, self.objectives, returned)
