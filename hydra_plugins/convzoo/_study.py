"""The trials of a search, on disk beside their jobs' folders: asked, told, taken up again."""

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
        folder: The sweep's.
        space: What is searched.
        meant: What else the command says of the configuration: `Composition.meant`.
        objectives: One or two metrics of result.json: the first is maximised, the second minimised.
        sampler: One of ``SAMPLERS``.
        seed: The sampler's.

    Raises:
        ConvzooError: The folder holds another search.
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
                # Nothing came of it: most likely the command was wrong.
                optuna.delete_study(study_name=known.study_name, storage=storage)
        self._study = optuna.create_study(
            storage=storage,
            study_name="search",
            load_if_exists=True,
            directions=["maximize", "minimize"][: len(objectives)],
        )
        self._study.set_user_attr("search", asked)
        # A sampler begins with its seed: without the trials so far in it, a second start would draw the same again.
        self._study.sampler = getattr(optuna.samplers, SAMPLERS[sampler])(seed=seed + self.tried)

    @property
    def tried(self) -> int:
        """Trials so far, whatever became of them."""
        return len(self._study.trials)

    @property
    def completed(self) -> int:
        return len(_completed(self._study))

    def unfinished(self) -> list[FrozenTrial]:
        """What was running when the search was stopped."""
        left = _running(self._study)
        whole = [trial for trial in left if set(trial.params) == set(self.space.searched)]
        # Those that were stopped while they were being drawn have no folder yet.
        self.fail([trial for trial in left if trial not in whole])
        return whole

    def ask(self) -> list[FrozenTrial]:
        """The next trial; none where it is one that has completed already, whose values it takes over."""
        number = self._study.ask(self.space.searched).number
        trial = self._study.trials[number]
        for other in _completed(self._study):
            if other.params == trial.params:
                self._study.tell(number, other.values)
                return []
        return [trial]

    def tell(self, trial: FrozenTrial, returned: JobReturn) -> None:
        """Records how a job ended. An interrupted one stays unfinished: the next start takes it up.

        Raises:
            ConvzooError: It completed without the metrics that this search needs.
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
        """Records that nothing came of these."""
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
        """The trials that no other one beats in all objectives, the most accurate first."""
        from zoo import render

        # A point that was drawn twice stands in the table once.
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
