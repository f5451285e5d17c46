"""A sweep on this machine: jobs are run once, none is lost, and the same command goes on with it."""

import functools
import json
import os
import signal

import pytest
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
    done = train("-m", *NET, *QUICK, "conv=native,separable", "act=relu,swish", "sweep.plan=true", "sweep.max_macs=7M")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "#" in line]
    assert len(rows) == 4 and "the same as #0" in rows[2] and "2.24 M" in rows[0] and "s" in rows[0]
    assert "2 of 4 jobs would run" in done.stdout
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob("sweep.json"))


def test_a_combination_that_cannot_be_is_left_out_with_its_reason(train, tmp_path):
    names = "model.name=resnet18,repvgg_a0"
    done = train("-m", "model=timm", names, "conv=spatial", *NET[1:], "sweep.plan=true", "data.image_size=32")
    assert done.returncode == 0, done.stderr
    assert "re-parameterised" in done.stdout and "1 of 2 jobs would run" in done.stdout


class Sweep:
    """A sweep of long jobs in the background."""

    def __init__(self, tmp_path, start, *overrides):
        self.folder = tmp_path / "runs" / "mine"
        self.start = functools.partial(start, "-m", *NET, "sweep.name=mine", *overrides)

    def running(self, launcher, number):
        """The process numbers of so many jobs, once each has finished an epoch."""
        launcher.until(lambda: len(self._begun()) >= number)
        return [int((folder / "job.lock").read_text().split()[1]) for folder in self._begun()]

    def _begun(self):
        # The file is made, empty, before the first epoch.
        return [path.parent for path in self.folder.glob("*/epochs.jsonl") if path.stat().st_size]


EPOCHS = 15
LONG = (
    f"trainer.max_epochs={EPOCHS}",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "checkpoint.every_s=1",
)


@pytest.fixture
def sweep(tmp_path, start):
    return Sweep(tmp_path, start, *LONG, "data.batch_size=8", "act=relu,swish")


def epochs_of(folder):
    return [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()]


def all_completed(sweep):
    for job in sweep_of(sweep.folder):
        assert result_of(sweep.folder, job)["status"] == "completed"
        epochs = epochs_of(sweep.folder / job["folder"])
        assert sorted(set(epochs)) == list(range(EPOCHS))


def test_a_killed_job_is_reported_and_goes_on_the_second_time(sweep):
    first = sweep.start()
    os.kill(sweep.running(first, 1)[0], signal.SIGKILL)
    assert first.wait() == 2
    assert "SIGKILL" in first.stdout
    statuses = [result_of(sweep.folder, job)["status"] for job in sweep_of(sweep.folder)]
    assert sorted(statuses) == ["completed", "failed"]
    second = sweep.start()
    assert second.wait() == 0
    assert "1 done already; 1 to run" in second.stdout
    all_completed(sweep)


def test_what_a_killed_launcher_left_running_is_found_again(sweep):
    first = sweep.start()
    sweep.running(first, 2)
    second = sweep.start()
    assert second.wait() == 2 and "a sweep in" in second.stderr and "is running already" in second.stderr
    first.send(signal.SIGKILL)
    first.wait()
    assert sweep.start().wait() == 0
    all_completed(sweep)
    for job in sweep_of(sweep.folder):
        # Nothing ran twice: each epoch is there once.
        assert epochs_of(sweep.folder / job["folder"]) == list(range(EPOCHS))


def test_ctrl_c_stops_all_jobs_and_the_same_command_goes_on(sweep):
    first = sweep.start()
    running = sweep.running(first, 1)
    first.send(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    assert not any(map(lives, running))
    said = first.stdout + first.stderr
    assert "The same command" in said and "Traceback" not in said
    assert any((job / "last.ckpt").exists() for job in sweep.folder.iterdir())
    assert sweep.start().wait() == 0
    all_completed(sweep)


def test_fail_fast_stops_the_others(train, tmp_path):
    done = train("-m", *NET, *LONG, "optim.lr=1e20,0.001", "sweep.fail_fast=true", "sweep.name=mine")
    assert done.returncode == 2 and "fail_fast" in done.stdout
    found = sorted(json.loads(p.read_text())["status"] for p in tmp_path.rglob("result.json"))
    assert found in (["failed"], ["failed", "interrupted"])
