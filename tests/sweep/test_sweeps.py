"""The files in sweeps/: every point composes, the Hydra line beside it does the same, and W&B's agent can run it."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, cell_config
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweep_files import FILES, load, overrides, points
from wandb_file import read_run
from wandb_peer import peer

from lightning_modules.config.check import check
from lightning_modules.config.schema import CellSpec
from lightning_modules.tracking.wandb_environment import PROJECT

NAMES = [path.stem for path in FILES]
GRIDS = [path for path in FILES if load(path)["method"] == "grid"]


@functools.cache
def composed(*words):
    """A point's configuration; two tests ask for each point of a grid."""
    return cell_config(*words)


def test_the_files_are_there():
    assert {"grid", "smoke", "bayes", "random"} <= set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_point_composes(path):
    found = points(path)
    assert len(found) >= 18
    for point in found:
        config = composed(*overrides(path, point))
        check(CellSpec.of(config))
        for key, value in point.items():
            # The value that arrived is the one that was sent: no number became a text on the way.
            place = config
            for part in key.split("."):
                place = place[part]
            assert (place["name"] if isinstance(place, dict) else place) == value, key


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_agents_command(path):
    """Hydra takes KEY=VALUE; the agent's default, --KEY=VALUE, is a flag that Hydra does not know."""
    sweep = load(path)
    assert sweep["command"] == ["${env}", "python", "train.py", "${args_no_hyphens}"]
    assert (ROOT / sweep["program"]).exists() and sweep["name"] == path.stem
    assert sweep["project"] == PROJECT


def hydra_lines(path):
    return [shlex.split(line) for line in re.findall(r"^#\s+python train\.py (-m .*)$", path.read_text(), re.M)]


@pytest.mark.parametrize("path", GRIDS, ids=[path.stem for path in GRIDS])
def test_the_line_without_an_account_runs_the_same_cells(path):
    (line,) = hydra_lines(path)
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(line[1:]), None)[0]
    asked = [composed(*job) for job in jobs]
    sent = [composed(*overrides(path, point)) for point in points(path)]
    assert sorted(map(str, asked)) == sorted(map(str, sent))


@pytest.mark.parametrize("name", ["bayes", "random"])
def test_the_search_without_an_account_searches_the_same(name):
    pytest.importorskip("optuna", reason="the search extra is not installed")
    from hydra_plugins.convzoo._space import parse_space

    path = ROOT / "sweeps" / f"{name}.yaml"
    (line,) = hydra_lines(path)
    given = OverridesParser.create().parse_overrides(line[1:])
    sweeper = {o.get_key_element(): o.value() for o in given if o.get_key_element().startswith("hydra")}
    assert sweeper["hydra/sweeper"] == "search" and sweeper["hydra.sweeper.trials"] == load(path)["run_cap"]
    space = parse_space([o for o in given if not o.get_key_element().startswith("hydra")])
    for key, asked in load(path)["parameters"].items():
        if "value" in asked:
            assert f"{key}={asked['value']}" in space.fixed
            continue
        found = space.searched.pop(key)
        if "values" in asked:
            assert list(found.choices) == [str(v) for v in asked["values"]]
        else:
            assert (found.low, found.high) == (asked["min"], asked["max"])
            assert found.log == asked["distribution"].startswith("log")
    assert not space.searched


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_metric_is_one_that_is_logged(path, logged):
    sweep, run = load(path), read_run(logged)
    assert sweep["metric"]["name"] in run["summary"] and sweep["metric"]["goal"] == "maximize"
    if "early_terminate" in sweep:
        # Hyperband counts how often the metric was logged: once an epoch.
        assert sum(sweep["metric"]["name"] in row for row in run["history"]) == 2


def test_runs_are_easy_to_compare(logged):
    run = read_run(logged)
    assert run["job_type"] == "train"
    assert run["name"] == "mobilenet-v3_small-native-native-cpu-digits-adamw-lr0.003-wd0.05-seed0"
    # Curves over epochs, and numbers in the summary: a name whose summary is {"max": …} would be a column of its own.
    axes = {metric.glob_name or metric.name: metric.step_metric for metric in run["metrics"]}
    assert axes == {"epoch": "", "train/*": "epoch", "val/*": "epoch"}
    assert [row["epoch"] for row in run["history"] if "val/acc" in row] == [0, 1]
    assert isinstance(run["summary"]["val/acc"], float)


def test_one_command_uploads_what_was_offline(logged):
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", str(logged / "wandb")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Would sync 1 run" in done.stdout + done.stderr


def test_the_real_agent_runs_a_point_of_the_smoke_test(clean_env, tmp_path):
    path = ROOT / "sweeps" / "smoke.yaml"
    small = {"model": "mobilenet", "trainer.limit_val_batches": 1, "logger.mode": "offline", "logger.group": None}
    small |= {"data": {"batch_size": 8, "augment": {"rotate": 0}}}  # what W&B calls nested parameters
    point = points(path)[0] | small | {"hydra.run.dir": str(tmp_path / "run")}
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    with peer(sweep=path.read_text(), runs={"r1": point}) as (address, calls):
        env = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address, "WANDB_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", "me/convzoo/sweep123"],
            cwd=ROOT,
            env=clean_env | env | {"PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in calls][:3] == ["viewer", "sweep", "createAgent"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "completed" and result["wandb"]["id"] == "r1"
    assert (result["cell"]["batch_size"], result["recipe"]["data.augment.rotate"]) == (8, 0)
    assert result["cell"] | {"model": "mobilenet", "conv": "standard", "act": "relu"} == result["cell"]
    run = read_run(tmp_path / "wandb")  # as WANDB_DIR says
    assert (run["id"], run["group"]) == ("r1", "sweep123")
    assert run["config"] | {"model": "mobilenet", "conv": "standard", "act": "relu", "epochs": 1} == run["config"]
