"""Search with Optuna: ``python train.py -m hydra/sweeper=search 'optim.lr=tag(log,interval(1e-4,1e-2))' …``.

A sweeper of our own: Hydra 1.3's Optuna plugin needs Optuna 2.10 and its storages an SQLAlchemy of before 2023.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.convzoo._space import Space, parse_space
from zoo.errors import ConvzooError, choose, need_packages

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STORAGE = "search.db"
GAINS = ("val/acc", "test/acc")
PRICES = ("cost/params", "cost/macs", "cost/activations", "speed/latency_ms", "time/fit_s")
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "nsga2": "NSGAIISampler"}


@dataclass
class SearchSweeperConf:
    """Attributes:
    trials: How many in all, those of earlier starts included.
    batch: How many at a time; the next ones learn from them.
    maximize: A metric of result.json. Not test/acc: who selects by it has no test set left.
    minimize: The second objective; null: none.
    sampler: tpe, random or nsga2.
    seed: The sampler's.
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
    """Asks Optuna for cells, runs them in batches with the configured launcher, and tells Optuna what they reached.

    The study lies beside the jobs' folders, and trial N is job N. The same command goes on with it: what has finished
    stays, what was running when the search was stopped runs again in its folder.
    """

    def __init__(self, trials: int, batch: int, maximize: str, minimize: str | None, sampler: str, seed: int) -> None:
        self.trials, self.batch, self.sampler, self.seed = trials, batch, sampler, seed
        self.objectives = [maximize] + ([minimize] if minimize else [])

    def check(self) -> None:
        """Checks the sweeper's own settings. Not in ``__init__``: Hydra wraps what is raised there.

        Raises:
            ConvzooError: The first one that is wrong, or Optuna is not installed.
        """
        need_packages("search", "optuna")
        for name, number in (("trials", self.trials), ("batch", self.batch)):
            if number < 1:
                raise ConvzooError(f"hydra.sweeper.{name}={number} is not allowed. Allowed: a whole number from 1.")
        choose("hydra.sweeper.maximize", self.objectives[0], GAINS)
        for price in self.objectives[1:]:
            choose("hydra.sweeper.minimize", price, [*PRICES, "null"])
        choose("hydra.sweeper.sampler", self.sampler, SAMPLERS)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # A trial that fails is an answer too.
        self.launcher.raise_on_failure = False

    def sweep(self, arguments: list[str]) -> None:
        """Runs what is missing of the search, and prints the trials that no other one beats in both objectives.

        Raises:
            ConvzooError: A space that is none, a folder that holds another search, or no trial that completed.
        """
        self.check()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = parse_space(parser.parse_overrides(arguments))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            study = self._open(folder, space)
            waiting = _unfinished(study, space)
            finished = sum(t.state.is_finished() for t in study.trials)
            print(
                f"search: {self.trials} trials ({finished} done, {len(waiting)} to be run again), "
                f"{' against '.join(self.objectives)}, in {folder}",
                flush=True,
            )
            while True:
                while len(waiting) < self.batch and len(study.trials) < self.trials:
                    waiting += self._ask(study, space)
                if not waiting:
                    break
                batch, waiting = waiting[: self.batch], waiting[self.batch :]
                for trials in _consecutive(batch):
                    self._run(study, space, trials)
            self._summary(study, space, folder)

    def _open(self, folder: Path, space: Space) -> "Study":
        """The study in this folder: a new one, or the one that an earlier start has left."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        searched = {key: repr(distribution) for key, distribution in space.searched.items()}
        asked = json.dumps([sorted(space.fixed), sorted(searched.items()), self.objectives])
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / STORAGE).resolve()}")
        for known in optuna.get_all_study_summaries(storage):
            if known.user_attrs.get("search") == asked:
                continue
            if any(
                t.state == optuna.trial.TrialState.COMPLETE
                for t in optuna.load_study(study_name=known.study_name, storage=storage).trials
            ):
                raise ConvzooError(
                    f"{folder} holds another search. Type the same overrides and objectives to go on with it (trials, "
                    "batch, sampler and seed may change), or another hydra.sweep.dir."
                )
            # Nothing came of it: most likely the command was wrong.
            optuna.delete_study(study_name=known.study_name, storage=storage)
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            load_if_exists=True,
            directions=["maximize", "minimize"][: len(self.objectives)],
        )
        study.set_user_attr("search", asked)
        # A sampler begins with its seed: without the trials so far in it, a second start would draw the same again.
        study.sampler = getattr(optuna.samplers, SAMPLERS[self.sampler])(seed=self.seed + len(study.trials))
        return study

    def _ask(self, study: "Study", space: Space) -> list["FrozenTrial"]:
        """The next trial; none where it is one that has completed already, whose values it takes over."""
        asked = study.ask(space.searched)
        trial = study.trials[asked.number]
        for other in _completed(study):
            if other.params == trial.params:
                study.tell(asked, other.values)
                return []
        return [trial]

    def _run(self, study: "Study", space: Space, trials: Sequence["FrozenTrial"]) -> None:
        """Runs trials with consecutive numbers, and tells the study."""
        from optuna.trial import TrialState

        jobs = [space.overrides(trial.params) for trial in trials]
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        except ConvzooError:
            # Not again at the next start: that would stop at the same place.
            for trial in trials:
                study.tell(trial.number, state=TrialState.FAIL)
            raise
        for trial, returned in zip(trials, returns, strict=True):
            result = _result(returned)
            job = {"folder": Path(returned.working_dir).name, "test/acc": result.get("metrics", {}).get("test/acc")}
            study.set_user_attr(_job(trial), job)
            if returned.status == JobStatus.COMPLETED:
                study.tell(trial.number, self._values(result))
            elif result.get("status") != "interrupted":
                study.tell(trial.number, state=TrialState.FAIL)

    def _values(self, result: dict[str, Any]) -> list[float]:
        metrics = result.get("metrics", {})
        values = [metrics.get(objective) for objective in self.objectives]
        for objective, value in zip(self.objectives, values, strict=True):
            if value is None or not math.isfinite(value):
                raise ConvzooError(
                    f"a job completed without {objective}, which this search needs. It has: {', '.join(metrics)}."
                )
        return values

    def _summary(self, study: "Study", space: Space, folder: Path) -> None:
        from zoo import render

        completed = _completed(study)
        if not completed:
            raise ConvzooError(f"none of {len(study.trials)} trials completed; {folder} has their logs.")
        # A point that was drawn twice stands in the table once.
        best = {json.dumps(t.params): t for t in reversed(study.best_trials)}.values()
        body = []
        for trial in sorted(best, key=lambda trial: -trial.values[0]):
            job = study.user_attrs.get(_job(trial), {})
            values = [*trial.values, job.get("test/acc")]
            params = [trial.params[key] for key in space.searched]
            body.append([str(trial.number), *map(_shown, [*values, *params]), job.get("folder", "–")])
        header = ["trial", *self.objectives, "test/acc", *space.searched, "folder"]
        title = "No other trial is better in both objectives" if len(self.objectives) > 1 else "The best trial"
        table = render.terminal(header, body, ("folder",), title)
        render.console(200).print(table)
        print(
            f"{len(completed)} of {len(study.trials)} trials completed. Go on: the same command with "
            f"hydra.sweep.dir={folder} hydra.sweeper.trials={2 * len(study.trials)}"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    with (folder / "search.lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConvzooError(
                f"another search runs in {folder}. Wait for it, or type another hydra.sweep.dir."
            ) from None
        yield


def _unfinished(study: "Study", space: Space) -> list["FrozenTrial"]:
    """What was running when the search was stopped."""
    from optuna.trial import TrialState

    left = study.get_trials(states=[TrialState.RUNNING])
    for trial in left:
        if set(trial.params) != set(space.searched):
            # Stopped while it was being drawn: it has no folder yet.
            study.tell(trial.number, state=TrialState.FAIL)
    return [trial for trial in left if set(trial.params) == set(space.searched)]


def _completed(study: "Study") -> list["FrozenTrial"]:
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState.COMPLETE])


def _consecutive(trials: Sequence["FrozenTrial"]) -> list[list["FrozenTrial"]]:
    """Runs of trials whose numbers follow each other: a launcher numbers its jobs from the first one on."""
    groups: list[list[FrozenTrial]] = []
    for trial in trials:
        if groups and trial.number == groups[-1][-1].number + 1:
            groups[-1].append(trial)
        else:
            groups.append([trial])
    return groups


def _job(trial: "FrozenTrial") -> str:
    """The study's attribute that says where a trial ran, and what it reached besides the objectives."""
    return f"job {trial.number}"


def _shown(value: Any) -> str:
    from zoo import render

    if not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:.4g}" if abs(value) < 1000 else render.short(value)


def _result(returned: JobReturn) -> dict[str, Any]:
    try:
        return json.loads((Path(returned.working_dir) / "result.json").read_text())
    except (OSError, TypeError, json.JSONDecodeError):
        return {}
