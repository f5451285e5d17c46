"""Sweeps on a real Slurm: two nodes on this machine (support/slurm_cluster.py). Needs root and Debian packages."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster as cluster
from conftest import ROOT

pytest.importorskip("submitit", reason='pip install "convzoo[slurm]"')
pytestmark = pytest.mark.slurm

from lightning_modules.sweep.slurm_options import SlurmOptions  # noqa: E402
from lightning_modules.sweep.slurm_queue import Shape, SlurmQueue  # noqa: E402
from lightning_modules.sweep.slurm_task import SlurmTask  # noqa: E402


@pytest.fixture(scope="module", params=["sacct", "no sacct"])
def accounted(request):
    return request.param == "sacct"


@pytest.fixture(scope="module")
def slurm(accounted, tmp_path_factory):
    if reason := cluster.missing(accounted):
        pytest.skip(reason)
    with (
        cluster.running(tmp_path_factory.mktemp("slurm") / "cluster", accounted) as up,
        pytest.MonkeyPatch.context() as m,
    ):
        for key, value in up.environment.items():
            m.setenv(key, value)
        yield up


def until(what, true, seconds=120):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return found


def submit(tmp_path, *scripts, shape=None, **options):
    """Jobs of a line of shell each, in a queue of their own; folders and queue."""
    queue = SlurmQueue(tmp_path / "sweep", SlurmOptions(**options))
    (tmp_path / "sweep").mkdir()
    tasks = [SlurmTask(tmp_path / "sweep" / str(i), str(tmp_path), ["sh", "-c", s]) for i, s in enumerate(scripts)]
    queue.submit([(task, shape or Shape()) for task in tasks])
    return [task.folder for task in tasks], queue


def test_a_killed_job_is_noticed_and_why(slurm, accounted, tmp_path):
    """The job's own process, then the one that watches it; the others of the array go on."""
    folders, queue = submit(tmp_path, "kill -9 $$", "kill -9 $PPID; sleep 60", "echo well; sleep 1", "exit 3")
    until("the queue to be empty", lambda: queue.queued() == {}, 60)
    assert "SIGKILL" in queue.why(folders[0])
    assert (folders[2] / "log.txt").read_text() == "well\n"
    assert "exit code 3" in queue.why(folders[3])
    # Nobody was left to say what became of it: Slurm is asked, in one way or the other.
    until("Slurm to know", lambda: "FAILED" in queue.why(folders[1]), 30)
    assert subprocess.run(["sacct"], capture_output=True).returncode == (0 if accounted else 1)


def test_a_successor_finds_the_jobs_and_can_cancel_them(slurm, tmp_path):
    folders, queue = submit(tmp_path, "sleep 100", "sleep 100", "sleep 100", at_once=2)
    single, _ = submit(tmp_path / "other", "sleep 100") if (tmp_path / "other").mkdir() is None else None
    successor = SlurmQueue(tmp_path / "sweep", SlurmOptions())
    found = until("jobs to start", lambda: (q := successor.queued()) and len(q) == 3 and q)
    assert set(found) == set(folders) and set(queue.queued()) == set(folders)
    until(
        "two to run", lambda: sorted(j.state for j in successor.queued().values()) == ["PENDING", "RUNNING", "RUNNING"]
    )
    successor.cancel(folders[:1])
    until("one to end", lambda: set(successor.queued()) == set(folders[1:]))
    successor.cancel(folders)
    until("all to end", lambda: successor.queued() == {})
    other = SlurmQueue(tmp_path / "other" / "sweep", SlurmOptions())
    assert set(other.queued()) == set(single)
    other.cancel(single)


SAVES = "trap 'echo saved >> saved; exit 140' USR2 TERM; echo start >> starts; while :; do sleep 0.1; done"


def test_at_the_time_limit_a_job_saves_and_goes_on(slurm, accounted, tmp_path):
    if accounted:
        pytest.skip("the same with and without sacct")
    starts = tmp_path / "starts"
    (folder,), queue = submit(tmp_path, SAVES, timeout_min=1, signal_delay_s=55)
    until(
        "a second start",
        lambda: starts.exists() and starts.read_text() == "start\n" * 2,
    )
    assert (tmp_path / "saved").read_text().count("saved") == 1 and set(queue.queued()) == {folder}
    queue.cancel([folder])
    until("it to stay cancelled", lambda: queue.queued() == {})
    assert (tmp_path / "saved").read_text().count("saved") == 2


def test_arrays_larger_than_slurms_largest_are_split(slurm, accounted, tmp_path, monkeypatch):
    if accounted:
        pytest.skip("the same with and without sacct")
    monkeypatch.setattr("lightning_modules.sweep.slurm_queue._largest_array", lambda: 2)
    folders, queue = submit(tmp_path, *["sleep 1"] * 5)
    assert len(list((tmp_path / "sweep" / ".slurm").glob("*.json"))) == 3
    assert set(queue.queued()) == set(folders)
    until("all to end", lambda: queue.queued() == {})
    assert all((f / "log.txt").exists() for f in folders)


EPOCHS = 16
SWEEP = (
    *("-m", "hydra/launcher=slurm", "hydra.launcher.poll_s=1", "sweep.name=cells", "logger=none"),
    *("model=mobilenet", "model.variant=v3_small", "data.batch_size=16", "trainer.limit_val_batches=2"),
    *(f"trainer.max_epochs={EPOCHS}", "trainer.limit_train_batches=12", "hardware=cpu,ddp", "seed=0,1"),
)
NAMES = [f"hardware={h} seed={s}" for h in ("cpu", "ddp") for s in (0, 1)]
KILLED, CANCELLED, *OTHERS = NAMES


class Driver:
    """``python train.py -m`` in the background."""

    def __init__(self, folder, env, *arguments):
        self.log = folder / f"driver{len(list(folder.glob('driver*')))}.txt"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *arguments], cwd=folder, env=env, stdout=out, stderr=out
            )

    def said(self, *words):
        return all(word in self.log.read_text() for word in words)


def test_kill_cancel_preempt_and_start_again(slurm, accounted, clean_env, tmp_path):
    """Every cell is accounted for, and the second start finishes what is left without submitting anything twice."""
    if accounted:
        pytest.skip("the same with and without sacct")
    first = Driver(tmp_path, clean_env | slurm.environment | {"PYTHONPATH": str(ROOT)}, *SWEEP)
    sweep = tmp_path / "runs" / "cells"
    until("the plan", lambda: (sweep / "sweep.json").exists() or first.process.poll() is not None)
    folders = {
        " ".join(o for o in job["overrides"] if o.startswith(("hardware=", "seed="))): sweep / job["folder"]
        for job in json.loads((sweep / "sweep.json").read_text())["jobs"]
    }
    assert set(folders) == set(NAMES), first.log.read_text()
    queue = SlurmQueue(sweep, SlurmOptions())
    jobs = until("the jobs to be submitted", lambda: (q := queue.queued()) and len(q) == 4 and q)

    for name, end in (
        (KILLED, lambda: os.kill(_process_of(folders[KILLED]), signal.SIGKILL)),
        (CANCELLED, lambda: slurm.run("scancel", jobs[folders[CANCELLED]].id)),
    ):
        until("an epoch", (folders[name] / "epochs.jsonl").exists)
        end()
    until("an epoch", (folders[OTHERS[0]] / "epochs.jsonl").exists)
    node = slurm.run("squeue", "-h", "-j", jobs[folders[OTHERS[0]]].id, "-o", "%N").strip()
    slurm.run("sbatch", "-p", "urgent", "--exclusive", "-w", node, "-o", "/dev/null", "--wrap", "sleep 1")
    until("the driver's word", lambda: first.said("SIGKILL", f"{CANCELLED.split()[1]}: interrupted"))
    assert _status(folders[KILLED]) == "failed" and _status(folders[CANCELLED]) == "interrupted"
    assert (folders[CANCELLED] / "last.ckpt").exists()
    until("the preempted job to be put back", lambda: "start" in _starts(queue, folders[OTHERS[0]]))
    first.process.kill()
    first.process.wait()
    steps = {name: _steps(folder) for name, folder in folders.items()}

    arrays = len(list((sweep / ".slurm").glob("*.json")))
    second = Driver(tmp_path, clean_env | slurm.environment | {"PYTHONPATH": str(ROOT)}, *SWEEP)
    assert second.process.wait(timeout=150) == 0, second.log.read_text()
    assert second.said("from an earlier start", "4 of 4 jobs completed"), second.log.read_text()
    assert arrays == 2 and len(list((sweep / ".slurm").glob("*.json"))) == 3
    for name, folder in folders.items():
        result = json.loads((folder / "result.json").read_text())
        assert result["status"] == "completed" and result["environment"]["devices"] == (2 if "ddp" in name else 1)
        # It went on from where it was: no step was taken again after its first start.
        after = _steps(folder)
        assert after[: len(steps[name])] == steps[name] and after[-1] == EPOCHS * 12
        assert name == KILLED or after == sorted(set(after))
    assert not list(sweep.glob("*/last.ckpt"))


def _process_of(folder: Path) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if any("train.py" in w for w in words) and any(str(folder.name) in w for w in words):
                return int(process.name)
    raise AssertionError(f"no process of {folder}")


def _status(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["status"]


def _starts(queue: SlurmQueue, folder: Path) -> str:
    job = queue.queued()[folder].id
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    return "start" if "Restarts=1" in shown else ""


def _steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_another_number_of_tasks_than_devices_is_an_error(slurm, accounted, tmp_path):
    """Two tasks of one device would train twice into one folder."""
    if accounted:
        pytest.skip("the same with and without sacct")
    command = f"{sys.executable} {ROOT}/train.py model=mobilenet hardware=cpu logger=none hydra.run.dir=run"
    (folder,), queue = submit(tmp_path, command, shape=Shape(devices=2))
    until("it to end", lambda: queue.queued() == {})
    assert "but this job has 2. Start one task per device" in (folder / "log.txt").read_text()
    assert not (tmp_path / "run" / "best.ckpt").exists()
