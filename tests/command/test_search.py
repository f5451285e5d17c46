"""The search: spaces from Hydra's overrides, trials that fail, stop or repeat, and a real one that is killed."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import QUICK
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from zoo import ConvzooError

optuna = pytest.importorskip("optuna", reason="the search extra is not installed")

from hydra_plugins.convzoo._space import parse_space  # noqa: E402
from hydra_plugins.convzoo._study import STORAGE  # noqa: E402
from hydra_plugins.convzoo.search import SearchSweeper, SearchSweeperConf  # noqa: E402

SPACE = ["model=mobilenet", "optim.lr=tag(log,interval(1e-4,1e-2))", "data.batch_size=choice(8,16)"]


def space(*overrides):
    return parse_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=interval(0,0.2)", optuna.distributions.FloatDistribution(0.0, 0.2)),
        ("a=tag(log,interval(1e-4,1e-2))", optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,5))", optuna.distributions.IntDistribution(1, 5)),
        ("a=int(tag(log,interval(1,64)))", optuna.distributions.IntDistribution(1, 64, log=True)),
        ("a=range(0,10,2)", optuna.distributions.IntDistribution(0, 8, step=2)),
        ("a=range(0.5,1.1,0.25)", optuna.distributions.FloatDistribution(0.5, 1.0, step=0.25)),
        ("a=choice(x,y)", optuna.distributions.CategoricalDistribution(["x", "y"])),
        ("a=x,y", optuna.distributions.CategoricalDistribution(["x", "y"])),
        ("a='b c','d'", optuna.distributions.CategoricalDistribution(["'b c'", "'d'"])),
        ("a=[1,2],[3,4]", optuna.distributions.CategoricalDistribution(["[1,2]", "[3,4]"])),
    ],
)
def test_hydras_overrides_as_distributions(override, expected):
    found = space("model=resnet", override)
    assert found.searched == {"a": expected} and found.fixed == ["model=resnet"]


@pytest.mark.parametrize(
    "overrides",
    [["model=resnet"], ["a=interval(2,1)"], ["a=tag(log,interval(0,1))"], ["a=range(3,3)"]],
    ids=" ".join,
)
def test_no_space(overrides):
    with pytest.raises(ConvzooError, match=r"Type what may vary|Allowed"):
        space(*overrides)


def test_a_jobs_overrides_say_exactly_what_was_drawn():
    found = space(*SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask(found.searched)
        fixed, lr, batch = OverridesParser.create().parse_overrides(found.overrides(trial.params))
        assert fixed.value() == "mobilenet" and lr.value() == trial.params["optim.lr"]
        assert str(batch.value()) == trial.params["data.batch_size"]


class FakeLauncher:
    """Answers at once; ``outcome`` says how job N ends. Accuracy rises with lr, cost with the batch size."""

    def __init__(self, folder, outcome):
        self.folder, self.outcome, self.jobs, self.batches = folder, outcome, {}, []

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append(len(job_overrides))
        return [self._job(initial_job_idx + i, given) for i, given in enumerate(job_overrides)]

    def _job(self, number, overrides):
        self.jobs[number] = overrides
        outcome, folder = self.outcome(number), self.folder / f"{number}-cell"
        if outcome == "stop everything":
            raise KeyboardInterrupt
        if outcome == "wrong":
            raise ConvzooError("no such cell")
        folder.mkdir(exist_ok=True)
        given = dict(o.split("=") for o in overrides)
        metrics = {"val/acc": float(given.get("optim.lr", 0)), "cost/macs": int(given.get("data.batch_size", 1))}
        if outcome != "no file":
            text = json.dumps({"status": outcome, "metrics": metrics | {"test/acc": 0.5}})
            (folder / "result.json").write_text(text)
        status = JobStatus.COMPLETED if outcome == "completed" else JobStatus.FAILED
        return JobReturn(status=status, working_dir=str(folder))


@pytest.fixture
def search(tmp_path):
    def run(outcome=lambda _: "completed", overrides=SPACE, **settings):
        given = {k: v for k, v in vars(SearchSweeperConf()).items() if k != "_target_"} | settings
        sweeper = SearchSweeper(**given)
        sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "s")}}})
        sweeper.hydra_context = SimpleNamespace(config_loader=SimpleNamespace(load_sweep_config=lambda **_: None))
        sweeper.launcher = launcher = FakeLauncher(tmp_path / "s", outcome)
        with contextlib.suppress(KeyboardInterrupt):
            sweeper.sweep(list(overrides))
        return launcher

    return run


def trials(tmp_path):
    return optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 's' / STORAGE}").trials


def states(tmp_path):
    return [t.state.name for t in trials(tmp_path)]


def test_trials_jobs_and_folders_are_in_step(search, tmp_path, capsys):
    launcher = search(trials=6, batch=4)
    assert list(launcher.jobs) == list(range(6)) and launcher.batches == [4, 2]
    for trial in trials(tmp_path):
        assert launcher.jobs[trial.number][1:] == [f"{k}={v}" for k, v in trial.params.items()]
        assert trial.values == [trial.params["optim.lr"], float(trial.params["data.batch_size"])]
    # The table has the trials that no other one beats, worked out here on our own.
    points = {t.number: t.values for t in trials(tmp_path)}
    front = {
        n
        for n, (a, c) in points.items()
        if not any((b >= a and d <= c) and (b, d) != (a, c) for b, d in points.values())
    }
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "-cell" in line]
    assert {int(line[0]) for line in lines} == front
    assert all(line[3].strip() == "0.5" and line[-1].strip() == f"{int(line[0])}-cell" for line in lines)


def test_a_failed_job_does_not_end_the_search(search, tmp_path):
    search(lambda n: {1: "failed", 2: "no file"}.get(n, "completed"), trials=5, batch=2)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert search(trials=5).jobs == {}, "tried is tried"


def test_the_same_command_goes_on(search, tmp_path):
    search(trials=3)
    before = [t.params for t in trials(tmp_path)]
    again = search(trials=5)
    assert list(again.jobs) == [3, 4]
    assert [t.params for t in trials(tmp_path)][:3] == before
    assert all(t.params not in before for t in trials(tmp_path)[3:]), "the sampler does not start over"


def test_what_was_running_runs_again_under_its_number(search, tmp_path):
    first = search(lambda n: "stop everything" if n == 3 else "completed", trials=6, batch=2)
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    again = search(trials=6, batch=4)
    assert sorted(again.jobs) == [2, 3, 4, 5] and states(tmp_path) == ["COMPLETE"] * 6
    assert again.jobs[2] == first.jobs[2] and again.jobs[3] == first.jobs[3]


def test_a_gap_between_the_trials_that_run_again(search, tmp_path):
    """An interrupted job (a preempted one, say) waits for the next start; those around it are done."""
    search(lambda n: "interrupted" if n in (0, 2) else "completed", trials=4, batch=4)
    assert states(tmp_path) == ["RUNNING", "COMPLETE", "RUNNING", "COMPLETE"]
    again = search(trials=4, batch=4)
    assert sorted(again.jobs) == [0, 2] and again.batches == [1, 1]


def test_a_point_drawn_twice_runs_once(search, tmp_path):
    launcher = search(trials=8, batch=1, overrides=["optim.lr=1e-3", "data.batch_size=choice(8,16)"])
    assert len(launcher.jobs) == 2 and states(tmp_path) == ["COMPLETE"] * 8
    assert {(t.params["data.batch_size"], t.values[1]) for t in trials(tmp_path)} == {("8", 8.0), ("16", 16.0)}


def test_one_objective(search, tmp_path):
    search(trials=3, minimize=None)
    assert [len(t.values) for t in trials(tmp_path)] == [1, 1, 1]


def test_another_search_in_the_same_folder(search):
    search(trials=2)
    with pytest.raises(ConvzooError, match="holds another search"):
        search(overrides=["optim.lr=interval(0,1)"])
    with pytest.raises(ConvzooError, match="holds another search"):
        search(minimize="cost/params")


def test_a_wrong_command_leaves_nothing_behind(search, tmp_path):
    with pytest.raises(ConvzooError, match="no such cell"):
        search(lambda _: "wrong", trials=2)
    assert states(tmp_path) == ["FAIL", "FAIL"]
    search(trials=2, overrides=[*SPACE, "conv=separable"])
    assert states(tmp_path) == ["COMPLETE", "COMPLETE"]


def test_where_nothing_completed_the_same_command_starts_over(search, tmp_path):
    with pytest.raises(ConvzooError, match="none of 2 trials completed"):
        search(lambda _: "failed", trials=2)
    assert list(search(trials=2).jobs) == [0, 1] and states(tmp_path) == ["COMPLETE", "COMPLETE"]


def test_corners_have_every_choice_and_both_ends():
    corners = space("a=choice(x,y,z)", "b=interval(0,1)", "c=1").corners()
    assert corners == [["c=1", *p] for p in (["a=x", "b=0.0"], ["a=y", "b=0.0"], ["a=z", "b=0.0"], ["a=x", "b=1.0"])]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("conv=separable,spatail", "Did you mean conv=spatial"),
        ("optim.lrr=interval(0,1)", "Did you mean optim.lr"),
        ("hydra.sweeper.sampler=bayes", "Allowed: tpe, random, nsga2"),
    ],
)
def test_a_wrong_word_is_told_before_anything_starts(train, tmp_path, override, text):
    done = train("-m", "hydra/sweeper=search", "hydra.sweep.dir=s", "seed=range(0,3)", override)
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_two_at_once(search, tmp_path):
    (tmp_path / "s").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "s" / "search.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ConvzooError, match=r"a search in .* is running already"):
            search(trials=1)
        other.communicate(b"\n")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"trials": 0}, "hydra.sweeper.trials=0"),
        ({"maximize": "val/ac"}, "Did you mean hydra.sweeper.maximize=val/acc"),
        ({"minimize": "cost/mac"}, "Did you mean hydra.sweeper.minimize=cost/macs"),
        ({"sampler": "bayes"}, "Allowed: tpe, random, nsga2"),
    ],
)
def test_wrong_settings(search, setting, text):
    with pytest.raises(ConvzooError, match=text):
        search(**setting)


def test_a_real_search_killed_and_started_again(start, tmp_path):
    command = ["-m", "hydra/sweeper=search", "hydra.sweep.dir=s"]
    command += [
        "hydra.sweeper.trials=3",
        "hydra.sweeper.batch=1",
        "logger=none",
        *QUICK,
        "trainer.limit_test_batches=1",
    ]
    command += ["model=mobilenet", "model.variant=v3_small", "data=synthetic", "data.image_size=32", "data.images=64"]
    command += [
        "hardware.threads=1",
        "scale=width",
        "scale.factor=choice(0.5,0.75,1.0)",
        "optim.lr=tag(log,interval(1e-4,1e-2))",
    ]

    def folder(number):
        plan = tmp_path / "s" / "sweep.json"
        jobs = json.loads(plan.read_text())["jobs"] if plan.exists() else []
        return next((tmp_path / "s" / job["folder"] for job in jobs if job["number"] == number), None)

    first = start(*command)
    first.until(lambda: folder(2) and (folder(2) / "log.txt").exists())
    first.end()
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "RUNNING"]
    done = folder(0) / "result.json"
    before, left = done.stat().st_mtime_ns, trials(tmp_path)[2].params
    again = start(*command)
    assert again.wait() == 0, again.stderr
    assert "3 trials (2 done, 1 to" in again.stdout and "3 of 3 trials" in again.stdout
    assert done.stat().st_mtime_ns == before and trials(tmp_path)[2].params == left
    for trial in trials(tmp_path):
        result = json.loads((folder(trial.number) / "result.json").read_text())
        assert trial.values == [result["metrics"]["val/acc"], result["metrics"]["cost/macs"]]
        assert result["cell"]["lr"] == trial.params["optim.lr"]
        assert result["cell"].get("width", 1.0) == float(trial.params["scale.factor"])
    assert len(list(Path(tmp_path / "s").glob("*/result.json"))) == 3
