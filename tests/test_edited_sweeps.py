"""A sweep's files that somebody edited, cut or shared out badly: read on, or refused; nothing of theirs is lost."""

import json
from types import SimpleNamespace

import pytest
from conftest import cell_config

from hydra_plugins.convzoo.local_launcher import _check_folders
from lightning_modules.result import write_result
from lightning_modules.sweep.driver import _settle
from lightning_modules.sweep.jobs import Job
from lightning_modules.sweep.plan import read_plan, write_plan
from zoo.errors import ConvzooError


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return Job(0, ["seed=0"], cell_config("seed=0"), folder)


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
    assert _settle(job, 2) == "failed" and path.read_text() == text
    path.unlink()
    assert _settle(job, 2) == "failed" and json.loads(path.read_text())["status"] == "failed"


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
