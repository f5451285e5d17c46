"""A sweep on this machine: jobs are run once, none is lost, and the same command goes on with it."""

import functools
import json
import os
import signal

from conftest import QUICK, lives

NET = ("model=mobilenet", "data.image_size=16", "logger=none", "hardware=cpu", "hydra.launcher.stagger_s=0")


def sweep_of(folder):
    return json.loads((folder / "sweep.json").read_text())["jobs"]


def result_of(folder, job):
    return json.loads((folder / job["folder"] / "result.json").read_text())


def test_a_sweep_runs_each_cell_once_and_only_what_is_missing_the_second_time(train, tmp_path):
    overrides = ("conv=native,separable,standard", "optim.lr=0.001,1e20", "sweep.max_params=5M", "sweep.name=mine")
    first = train("-m", *NET, *QUICK, *overrides)
    folder = tmp_path / "runs" / "mine"
    jobs = sweep_of(folder)
    # native is separable in a MobileNetV2, and standard is over the budget.
    assert [job["same_as"] for job in jobs] == [None, None, 0, 1, None, None]
    assert [bool(job["excluded"]) for job in jobs] == [False] * 4 + [True] * 2
    assert "8.18 M params, more than 5 M" in jobs[4]["excluded"]
    assert first.returncode == 2 and "Traceback" not in first.stderr
    assert "1 of 2 jobs did not complete" in first.stderr and "#1 conv=native optim.lr=1e+20" in first.stderr
    assert result_of(folder, jobs[0])["status"] == "completed" and result_of(folder, jobs[0])["id"] == jobs[0]["id"]
    failed = result_of(folder, jobs[1])
    assert failed["status"] == "failed" and "optim.lr" in failed["error"]
    folders = {p.name for p in folder.iterdir() if p.is_dir()}
    assert folders == {jobs[0]["folder"], jobs[1]["folder"]}
    written = (folder / jobs[0]["folder"] / "result.json").stat().st_mtime_ns
    second = train("-m", *NET, *QUICK, *overrides)
    assert "1 done already, 2 the same as another, 2 left out; 1 to run" in second.stdout
    assert (folder / jobs[0]["folder"] / "result.json").stat().st_mtime_ns == written


def test_a_wrong_value_anywhere_stops_a_sweep_before_its_first_job(train, tmp_path):
    done = train("-m", *NET, *QUICK, "data.batch_size=8,-1", "sweep.name=mine")
    assert done.returncode == 2 and "data.batch_size=-1 is not allowed" in done.stderr
    assert "#1 data.batch_size=-1" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("result.json"))


def test_a_plan_says_what_would_run_and_runs_nothing(train, tmp_path):
    """One job is the same as another, one network takes no such images, and one cannot be rewritten."""
    nets = ("model=timm", "model.name=mobilenetv2_050,repvgg_a0", "conv=native,separable", *NET[1:])
    done = train("-m", *nets, *QUICK, "sweep.plan=true")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "│ #" in line]
    assert len(rows) == 4 and "700 k" in rows[0] and "1.9 M" in rows[0] and "~" in rows[0]
    assert rows[1].count("#0") == 1 and "re-parameterised" in rows[3] and "1 of 4 jobs" in done.stdout
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob("sweep.json"))


EPOCHS = 15
LONG = (
    f"trainer.max_epochs={EPOCHS}",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "checkpoint.every_s=1",
)


def epochs_of(folder):
    return [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_killed_and_stopped_jobs_and_launchers_lose_nothing(start, tmp_path):
    """A job is killed, its launcher interrupted; the next launcher is killed; the last one finds both jobs running."""
    launch = functools.partial(start, "-m", *NET, *LONG, "data.batch_size=8", "act=relu,swish", "sweep.name=mine")
    folder = tmp_path / "runs" / "mine"

    def pids():
        """The processes of the jobs that run and have finished an epoch."""
        begun = [path.parent for path in folder.glob("*/epochs.jsonl") if path.stat().st_size]
        words = {job: (job / "job.lock").read_text().split() for job in begun}
        return {job: int(held[1]) for job, held in words.items() if held and lives(int(held[1]))}

    first = launch()
    first.until(lambda: len(pids()) == 2)
    (victim, other) = pids()
    os.kill(pids()[victim], signal.SIGKILL)
    first.until(lambda: "SIGKILL" in first.stdout)
    assert json.loads((victim / "result.json").read_text())["status"] == "failed"
    first.send(signal.SIGINT)
    assert first.wait() == 130 and not pids()
    assert "The same command" in first.stdout and "Traceback" not in first.stdout + first.stderr
    assert json.loads((other / "result.json").read_text())["status"] == "interrupted"
    assert (other / "last.ckpt").exists()

    second = launch()
    second.until(lambda: f"process {second.pid}" in (folder / "sweep.lock").read_text())
    refused = launch()
    assert refused.wait() == 2 and f"process {second.pid}" in refused.stderr
    second.until(lambda: len(pids()) == 2)
    left = pids()
    try:
        for pid in left.values():
            os.kill(pid, signal.SIGSTOP)
        second.send(signal.SIGKILL)
        second.wait()
        last = launch()
        last.until(lambda: "2 to run" in last.stdout)
    finally:
        for pid in left.values():
            os.kill(pid, signal.SIGCONT)
    assert last.wait() == 0
    for job in sweep_of(folder):
        assert result_of(folder, job)["status"] == "completed"
    # Nothing was lost, or ran twice but for what the killed job repeated.
    assert sorted(set(epochs_of(victim))) == epochs_of(other) == list(range(EPOCHS))


def test_fail_fast_stops_the_others(train, tmp_path):
    done = train("-m", *NET, *LONG, "optim.lr=1e20,0.001", "sweep.fail_fast=true", "sweep.name=mine")
    assert done.returncode == 2 and "fail_fast" in done.stdout
    found = sorted(json.loads(p.read_text())["status"] for p in tmp_path.rglob("result.json"))
    assert found in (["failed"], ["failed", "interrupted"])
