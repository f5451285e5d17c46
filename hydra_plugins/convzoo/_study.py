"""Store the trials of a search in an Optuna study next to the jobs' folders, and resume them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.convzoo._space import Space
from zoo.errors import ConvzooError
from zoo.text import typed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.table import Table

STORAGE = "search.db"
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "nsga2": "NSGAIISampler"}


class Trials:
    """An Optuna study in the sweep's folder; trial N is job N.

    Args:
        folder: The sweep's folder.
        space: The search space.
        meant: The arguments that shape the rest of the configuration: `Composition.meant`.
        objectives: One or two metrics of result.json: the first is maximized, the second minimized.
        sampler: One of ``SAMPLERS``.
        seed: The sampler's seed.

    Raises:
        ConvzooError: The folder contains another search.
    """

    def __init__(
        self, folder: Path, space: Space, meant: list[str], objectives: list[str], sampler: str, seed: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.objectives = space, objectives
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / STORAGE).resolve()}")
        searched = {key: repr(distribution) for key, distribution in space.searched.items()}
        asked = json.dumps([sorted([*space.fixed, *meant]), sorted(searched.items()), objectives])
        for known in optuna.get_all_study_summaries(storage):
            study = optuna.load_study(study_name=known.study_name, storage=storage)
            same = known.user_attrs.get("search") == asked
            if _completed(study) and not same:
                raise ConvzooError(
                    f"{typed(folder)} holds another search. Type the same overrides and objectives to go on with it "
                    "(trials, batch, sampler and seed may change), or another hydra.sweep.dir."
                )
            if not _completed(study) and not (same and _running(study)):
                # No trial completed: most likely the command was wrong.
                optuna.delete_study(study_name=known.study_name, storage=storage)
        self._study = optuna.create_study(
            storage=storage,
            study_name="search",
            load_if_exists=True,
            directions=["maximize", "minimize"][: len(objectives)],
        )
        self._study.set_user_attr("search", asked)
        # Add the number of trials so far: with the same seed, a second start would draw the same values again.
        self._study.sampler = getattr(optuna.samplers, SAMPLERS[sampler])(seed=seed + self.tried)

    @property
    def tried(self) -> int:
        """Number of trials so far, in any state."""
        return len(self._study.trials)

    @property
    def completed(self) -> int:
        return len(_completed(self._study))

    def unfinished(self) -> list[FrozenTrial]:
        """Return the trials that were running when the search was stopped."""
        left = _running(self._study)
        whole = [trial for trial in left if set(trial.params) == set(self.space.searched)]
        # A trial interrupted while its values were drawn lacks some of them, and has no folder yet.
        self.fail([trial for trial in left if trial not in whole])
        return whole

    def ask(self) -> list[FrozenTrial]:
        """Return the next trial in a list; empty if its parameters repeat a completed trial, whose values it copies."""
        number = self._study.ask(self.space.searched).number
        trial = self._study.trials[number]
        for other in _completed(self._study):
            if other.params == trial.params:
                self._study.tell(number, other.values)
                return []
        return [trial]

    def tell(self, trial: FrozenTrial, returned: JobReturn) -> None:
        """Record how a job ended. An interrupted trial stays unfinished, and the next start resumes it.

        Args:
            trial: The trial.
            returned: What the launcher returned for its job.

        Raises:
            ConvzooError: The job completed without a metric that this search needs.
        """
        result = _result(returned)
        metrics = result.get("metrics", {})
        job = {"folder": Path(returned.working_dir or "").name, "test/acc": metrics.get("test/acc")}
        self._study.set_user_attr(_job(trial), job)
        if returned.status == JobStatus.COMPLETED:
            self._study.tell(trial.number, [self._value(metrics, objective) for objective in self.objectives])
        elif result.get("status") != "interrupted":
            self.fail([trial])

    def fail(self, trials: list[FrozenTrial]) -> None:
        """Record trials as failed."""
        from optuna.trial import TrialState

        for trial in trials:
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _value(self, metrics: dict[str, Any], objective: str) -> float:
        value = metrics.get(objective)
        if value is None or not math.isfinite(value):
            raise ConvzooError(
                f"a job completed without {objective}, which this search needs. It has: {', '.join(metrics)}."
            )
        return value

    def best(self) -> Table:
        """Return a table of the Pareto-optimal trials, the most accurate first."""
        from zoo import render

        # List parameters that were drawn twice only once.
        best = {json.dumps(t.params): t for t in reversed(self._study.best_trials)}.values()
        body = []
        for trial in sorted(best, key=lambda trial: -trial.values[0]):
            job = self._study.user_attrs.get(_job(trial), {})
            params = [trial.params[key] for key in self.space.searched]
            values = [_shown(value) for value in [*trial.values, job.get("test/acc"), *params]]
            body.append([str(trial.number), *values, job.get("folder", "–")])
        header = ["trial", *self.objectives, "test/acc", *self.space.searched, "folder"]
        title = "No other trial is better in both objectives" if len(self.objectives) > 1 else "The best trial"
        return render.terminal(header, body, ("folder",), title)


def _completed(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState.COMPLETE])


def _running(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState.RUNNING])


def _job(trial: FrozenTrial) -> str:
    """Return the name of the study's attribute that holds a trial's folder and test accuracy."""
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
