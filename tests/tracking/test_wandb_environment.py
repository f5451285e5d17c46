"""W&B's own environment variables hold where no key was typed."""

import os
from pathlib import Path

import pytest
from conftest import cell_spec
from wandb_file import read_run

from lightning_modules.tracking import wandb_service
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.loggers import make_loggers
from lightning_modules.tracking.wandb_environment import find_folder, find_id, find_mode, passed
from zoo import ConvzooError

CELL = {"model": "m", "seed": 0}


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith(("WANDB_", "CONVZOO_"))] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb_service.kill_service()
    wandb_service.stop_service()


def track(folder, *typed, resumed=False, **cell):
    """What W&B's file has of a run that was tracked with these keys typed."""
    folder.mkdir(exist_ok=True)
    spec = cell_spec(*typed)
    (logger,) = make_loggers(spec, folder, CELL | cell, "plain", resumed)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish(Outcome({"test/acc": 0.5}, "completed"))
    where = logger.entry["wandb"]["dir"]
    return read_run(Path(where)) | {"dir": where}


def test_each_variable_holds(monkeypatch, tmp_path):
    said = {"PROJECT": "mine", "NAME": "a name", "JOB_TYPE": "sieve", "RUN_GROUP": "g", "TAGS": "a,b", "ENTITY": "us"}
    for name, value in {
        **said,
        "DIR": str(tmp_path / "new" / "place"),
        "RUN_ID": "my-run-2024",
        "MODE": "dryrun",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = track(tmp_path / "run")
    assert [run[k] for k in ("project", "name", "job_type", "group", "id")] == [
        "mine",
        "a name",
        "sieve",
        "g",
        "my-run-2024",
    ]
    assert run["tags"] == ["a", "b"] and run["entity"] == "us"
    assert Path(run["dir"]).is_relative_to(tmp_path / "new" / "place") and not (tmp_path / "run" / "wandb").exists()
    # It goes on in the same run; one that starts anew beside its rows is another.
    assert track(tmp_path / "run", resumed=True)["id"] == "my-run-2024"
    assert track(tmp_path / "run")["id"] == "my-run-2024-2"


def test_what_was_typed_comes_first(monkeypatch, tmp_path):
    for name, value in {"PROJECT": "theirs", "RUN_GROUP": "theirs", "TAGS": "theirs", "MODE": "disabled"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = track(tmp_path / "run", "logger.project=convzoo", "logger.group=g", "logger.tags=[t]", "logger.mode=offline")
    assert (run["project"], run["group"], run["tags"]) == ("convzoo", "g", ["t"])


@pytest.mark.parametrize("empty", [None, "", " "])
def test_without_them_all_is_as_usual(monkeypatch, tmp_path, empty):
    for name in ("PROJECT", "NAME", "JOB_TYPE", "RUN_GROUP", "DIR") if empty is not None else ():
        monkeypatch.setenv(f"WANDB_{name}", empty)
    monkeypatch.setenv("CONVZOO_SWEEP", "sweep")
    run = track(tmp_path / "run")
    assert (run["project"], run["job_type"], run["group"], run["name"]) == ("convzoo", "train", "sweep", "m-seed0")
    assert Path(run["dir"]).is_relative_to(tmp_path / "run")


def test_one_id_does_not_merge_the_jobs_of_a_sweep(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert find_id("usual") == "mine"
    monkeypatch.setenv("CONVZOO_SWEEP", "sweep")
    assert find_id("usual") == "usual"


def test_jobs_that_share_a_folder_stay_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    first, second = track(tmp_path / "a"), track(tmp_path / "b")
    assert first["id"] != second["id"] and first["dir"] != second["dir"]
    assert track(tmp_path / "a", resumed=True)["id"] == first["id"]


def test_an_agent_that_says_where_it_runs_does_not_say_where_files_go(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_DIR", os.getcwd())
    assert find_folder(tmp_path) == tmp_path
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "other"))
    assert find_folder(tmp_path) == tmp_path / "other"


def test_a_folder_that_cannot_be_made_costs_no_run(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    run = track(tmp_path / "run")
    assert Path(run["dir"]).is_relative_to(tmp_path / "run") and "WANDB_DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "typed", "mode"),
    [
        ({}, "auto", None),
        ({"MODE": "dryrun"}, "auto", "offline"),
        ({"MODE": "run"}, "auto", "online"),
        ({"MODE": "disabled"}, "auto", "disabled"),
        ({"MODE": "dryrun"}, "online", "online"),
        ({"DISABLED": "true"}, "auto", "disabled"),
        ({"DISABLED": "true"}, "offline", "offline"),
        ({"DISABLED": "false", "MODE": "offline"}, "auto", "offline"),
    ],
)
def test_the_mode(monkeypatch, variables, typed, mode):
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert find_mode(typed) == mode


def test_a_wrong_mode_is_told_by_the_variables_name(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConvzooError, match=r"WANDB_MODE=ofline .*WANDB_MODE=offline"):
        find_mode("auto")


def test_no_key_is_passed_on(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_PROJECT", "p")
    assert passed() == {"WANDB_PROJECT": "p"}
