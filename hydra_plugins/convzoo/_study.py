"""Store the trials of a search in an Optuna study next to the jobs' folders, and resume them; trial N is job N."""

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


def open_study(folder: Path, space: Space, meant: list[str], objectives: list[str], sampler: str, seed: int) -> Study:
    """Open the study in a sweep's folder, or create it.

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
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / STORAGE).resolve()}")
    searched = {key: repr(distribution) for key, distribution in space.searched.items()}
    asked = json.dumps([sorted([*space.fixed, *meant]), sorted(searched.items()), objectives])
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        same = study.user_attrs.get("search") == asked
        if with_state(study, "COMPLETE") and not same:
            raise ConvzooError(
                f"{typed(folder)} holds another search. To continue that search, type the same overrides and "
                "objectives (trials, batch, sampler and seed may change); for this one, type another hydra.sweep.dir."
            )
        if not with_state(study, "COMPLETE") and not (same and with_state(study, "RUNNING")):
            # No trial completed: most likely the command was wrong.
            optuna.delete_study(study_name=name, storage=storage)
    directions = ["maximize", "minimize"][: len(objectives)]
    study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True, directions=directions)
    study.set_user_attr("search", asked)
    # Add the number of trials so far: with the same seed, a second start would draw the same values again.
    study.sampler = getattr(optuna.samplers, SAMPLERS[sampler])(seed=seed + len(study.trials))
    return study


def with_state(study: Study, state: str) -> list[FrozenTrial]:
    """Return the trials in a state: COMPLETE, RUNNING (also if the search was stopped) or FAIL."""
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState[state]])


def unfinished(study: Study, space: Space) -> list[FrozenTrial]:
    """Return the trials that were running when the search was stopped."""
    left = with_state(study, "RUNNING")
    whole = [trial for trial in left if set(trial.params) == set(space.searched)]
    # A trial interrupted while its values were drawn lacks some of them, and has no folder yet.
    fail(study, [trial for trial in left if trial not in whole])
    return whole


def ask(study: Study, space: Space) -> list[FrozenTrial]:
    """Return the next trial in a list; empty if its parameters repeat a completed trial, whose values it copies."""
    number = study.ask(space.searched).number
    trial = study.trials[number]
    for other in with_state(study, "COMPLETE"):
        if other.params == trial.params:
            study.tell(number, other.values)
            return []
    return [trial]


def tell(study: Study, trial: FrozenTrial, objectives: list[str], returned: JobReturn) -> None:
    """Record how a trial's job ended. An interrupted trial stays unfinished, and the next start resumes it.

    Raises:
        ConvzooError: The job completed without a metric that this search needs.
    """
    try:
        result = json.loads((Path(returned.working_dir) / "result.json").read_text())
    except (OSError, TypeError, json.JSONDecodeError):
        result = {}
    metrics = result.get("metrics", {})
    job = {"folder": Path(returned.working_dir or "").name, "test/acc": metrics.get("test/acc")}
    study.set_user_attr(f"job {trial.number}", job)
    if returned.status == JobStatus.COMPLETED:
        values = [metrics.get(objective) for objective in objectives]
        for objective, value in zip(objectives, values, strict=True):
            if value is None or not math.isfinite(value):
                raise ConvzooError(
                    f"a job completed without {objective}, which this search needs. It has: {', '.join(metrics)}."
                )
        study.tell(trial.number, values)
    elif result.get("status") != "interrupted":
        fail(study, [trial])


def fail(study: Study, trials: list[FrozenTrial]) -> None:
    """Record trials as failed."""
    from optuna.trial import TrialState

    for trial in trials:
        study.tell(trial.number, state=TrialState.FAIL)


def best_trials(study: Study, space: Space, objectives: list[str]) -> Table:
    """Return a table of the Pareto-optimal trials, the most accurate first."""
    from zoo import render

    # List parameters that were drawn twice only once.
    best = {json.dumps(trial.params): trial for trial in reversed(study.best_trials)}.values()
    body = []
    for trial in sorted(best, key=lambda trial: -trial.values[0]):
        job = study.user_attrs.get(f"job {trial.number}", {})
        values = [*trial.values, job.get("test/acc"), *(trial.params[key] for key in space.searched)]
        body.append([str(trial.number), *map(_shown, values), job.get("folder", "–")])
    header = ["trial", *objectives, "test/acc", *space.searched, "folder"]
    title = "No other trial is better in both objectives" if len(objectives) > 1 else "The best trial"
    return render.terminal(header, body, ("folder",), title)


def _shown(value: Any) -> str:
    from zoo import render

    if not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:.4g}" if abs(value) < 1000 else render.short(value)
