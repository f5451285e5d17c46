"""A sweep's files that somebody edited, cut or shared out badly: read on, or refused; nothing of theirs is lost."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
from conftest import cell_spec

from hydra_plugins.convzoo._launcher import _check_folders
from lightning_modules.results.result import read_result, write_result
from lightning_modules.sweep import local
from lightning_modules.sweep.driver import _run, _settle
from lightning_modules.sweep.jobs import Job
from lightning_modules.sweep.local import LocalEngine
from lightning_modules.sweep.plan import read_plan, write_plan
from lightning_modules.sweep.pool import Pool
from lightning_modules.sweep.ray import RayEngine
from lightning_modules.sweep.slurm_options import SlurmOptions
from lightning_modules.sweep.slurm_queue import Shape, SlurmQueue
from lightning_modules.sweep.slurm_task import SlurmTask
from zoo.errors import ConvzooError


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return Job(0, ["seed=0"], cell_spec("seed=0"), folder)


RESULT = {"status": "completed", "cell": {}, "metrics": {"test/acc": 0.5}, "environment": {}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"status": "compl',
        "[1]",
        "[" * 100_000,
        json.dumps(RESULT | {"status": ["completed"]}),
        json.dumps(RESULT | {"status": "done"}),
        json.dumps(RESULT | {"metrics": [1]}),
        json.dumps(RESULT | {"id": "c0"}),
        json.dumps({"status": "completed"}),
        json.dumps(RESULT | {"environment": None}),
    ],
)
def test_a_result_that_cannot_be_used_is_none_and_is_kept(job, text):
    path = job.folder / "result.json"
    write_result(job.folder, RESULT | {"id": job.id})
    assert job.status() == "completed"
    path.write_text(text)
    assert job.result() == {} and job.status() == "waiting"
    assert _settle(job, 2)["status"] == "failed" and path.read_text() == text
    path.unlink()
    assert _settle(job, 2) == read_result(job.folder)


def start_locally(job, monkeypatch):
    monkeypatch.setattr(local, "command", lambda *_: ["true"])
    engine = LocalEngine(1, "auto", 0, "s", Pool(False))
    assert [end for ended in engine.run([job]) for end in ended] == [(job, 0)]


def start_on_ray(job, monkeypatch):
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: None))
    engine = SimpleNamespace(threads=1, folder=job.folder.parent, ray=SimpleNamespace(remote=lambda _: remote))
    RayEngine._start(engine, job)


def submit_to_slurm(job, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr("lightning_modules.sweep.slurm_queue._check_installed", lambda: None)
    monkeypatch.setattr(submitit.SlurmExecutor, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(submitit.SlurmExecutor, "update_parameters", lambda *_, **__: None)
    monkeypatch.setattr(submitit.SlurmExecutor, "submit_array", lambda *_: [SimpleNamespace(job_id="1_0")])
    queue = SlurmQueue(job.folder.parent, SlurmOptions())
    queue.submit([(SlurmTask(job.folder, ".", ["true"], id=job.id), Shape())])
    assert list(queue._arrays().values())[-1] == [job.folder]


def run_by_slurm(job, monkeypatch):
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        assert SlurmTask(job.folder, ".", ["true"], dict(os.environ), job.id)() == 0
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@pytest.mark.parametrize("start", [start_locally, start_on_ray, submit_to_slurm, run_by_slurm])
def test_a_start_takes_away_a_failure_of_its_own_only(job, start, monkeypatch):
    path = job.folder / "result.json"
    for text in (
        '{"status": "compl',
        json.dumps(RESULT | {"id": job.id}),
        json.dumps(RESULT | {"id": "c0"}),
        json.dumps(RESULT | {"id": "c0", "status": "failed"}),
    ):
        path.write_text(text)
        start(job, monkeypatch)
        assert path.read_text() == text
    for status in ("failed", "interrupted"):
        write_result(job.folder, RESULT | {"id": job.id, "status": status})
        start(job, monkeypatch)
        assert not path.exists()


def test_a_job_that_cannot_be_started_is_told_and_the_others_run(tmp_path, monkeypatch, capsys):
    jobs = [Job(i, [f"seed={i}"], cell_spec(f"seed={i}"), tmp_path / str(i)) for i in range(3)]
    jobs[0].folder.write_text("no folder")
    (jobs[1].folder / "log.txt").mkdir(parents=True)
    monkeypatch.setattr(local, "command", lambda job: ["touch", str(job.folder / "ran")])
    _run(jobs, 0, LocalEngine(1, "auto", 0, "s", Pool(False)), fail_fast=False)
    assert (jobs[2].folder / "ran").exists()
    said = capsys.readouterr().out
    assert f"File exists: {jobs[0].folder}" in said and f"Is a directory: {jobs[1].folder / 'log.txt'}" in said
    assert json.loads((jobs[1].folder / "result.json").read_text())["status"] == "failed"


def test_epochs_of_wrong_types_are_left_out(job):
    (job.folder / "epochs.jsonl").write_text('[1]\n3\n{"epoch": 0}\n' + "[" * 100_000 + '\n{"ep')
    assert job.epochs() == [{"epoch": 0}]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"jobs": 3}', '{"jobs": [3]}', '{"jobs": [{"id": 1}]}', '{"jobs": [{"folder": 1}]}', "[" * 10**5],
)
def test_a_broken_plan_is_written_anew(tmp_path, job, text):
    (tmp_path / "sweep.json").write_text(text)
    assert read_plan(tmp_path) == []
    write_plan(tmp_path, "a command", [job])
    assert [record["id"] for record in read_plan(tmp_path)] == [job.id]


def test_jobs_that_differ_have_folders_of_their_own(tmp_path):
    jobs = [SimpleNamespace(number=i, id=f"c{i}", folder=tmp_path / f"{i}") for i in range(3)]
    _check_folders(jobs)
    jobs[2].folder = jobs[0].folder
    with pytest.raises(ConvzooError, match=r"jobs 0 and 2.*hydra\.job\.id"):
        _check_folders(jobs)
    jobs[2].id = jobs[0].id
    _check_folders(jobs)
