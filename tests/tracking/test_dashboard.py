"""The W&B workspace: every key it shows is one that a run logs, and it is saved or refused in words."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import wandb
from conftest import ROOT
from wandb_file import read_run
from wandb_peer import peer

from zoo.__main__ import main

pytest.importorskip("wandb_workspaces", reason="the dashboard extra is not installed")

SECTIONS = ["Accuracy against cost", "Which choice matters", "Learning curves"]


@pytest.fixture
def dashboard(monkeypatch, tmp_path, capsys):
    """Types ``python -m zoo dashboard`` and returns exit code, output and errors."""
    for name in [n for n in os.environ if n.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def command(*arguments, **env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        code = main(["dashboard", "--entity", "me", *arguments])
        return SimpleNamespace(returncode=code, **dict(zip(("stdout", "stderr"), capsys.readouterr(), strict=True)))

    yield command
    wandb.teardown()


def dry_run(dashboard, *arguments):
    # No proxy, no server: nothing may ask for one.
    done = dashboard("--dry-run", *arguments, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["spec"]["section"]


def panels(section):
    return {s["name"]: s["panels"] for s in section["panelBankConfig"]["sections"]}


def keys_below(value):
    """Every text of a tree that names a column of the runs, as (section, key)."""
    if isinstance(value, dict):
        found = [*value, *value.values()]
    elif isinstance(value, list):
        found = value
    else:
        kind, _, key = str(value).partition(":")
        return {(kind, key)} if kind in ("summary", "config") and key else set()
    return set().union(*(keys_below(v) for v in found)) if found else set()


def test_every_column_is_one_that_is_logged(dashboard, logged):
    spec, run = dry_run(dashboard), read_run(logged)
    keys = keys_below(spec)
    assert {key for kind, key in keys if kind == "summary"} <= set(run["summary"])
    assert {key.removesuffix(".value") for kind, key in keys if kind == "config"} <= set(run["config"])
    assert {("summary", "test/acc"), ("summary", "cost/macs"), ("config", "conv.value")} <= keys
    for panel in panels(spec)["Learning curves"]:
        assert any(set(panel["config"]["metrics"]) <= set(row) and "epoch" in row for row in run["history"])
    bars = [p["config"] for p in panels(spec)["Which choice matters"] if p["viewType"] == "Bar Chart"]
    assert [bar["groupBy"].removesuffix(".value") for bar in bars] == ["model", "conv", "act", "cell"]
    assert {bar["groupBy"].removesuffix(".value") for bar in bars} <= set(run["config"])
    assert run["config"]["cell"] == "mobilenet v3_small native native"


def test_what_it_shows(dashboard):
    spec = dry_run(dashboard)
    assert list(panels(spec)) == SECTIONS
    scatter = {p["config"]["xAxis"]: p["config"] for p in panels(spec)["Accuracy against cost"]}
    costs = ("cost/params", "cost/macs", "cost/activations", "speed/train_images_per_s")
    assert {f"summary:{cost}" for cost in costs} <= set(scatter)
    assert all(c["yAxis"] == "summary:test/acc" and c["xAxisLogScale"] for c in scatter.values())
    mine = "a-group-of-mine"  # not a word that a random id may hold
    assert mine not in json.dumps(spec) and mine in json.dumps(dry_run(dashboard, "--group", mine)["runSets"])


def test_saved_on_a_server(dashboard):
    with peer() as (address, calls):
        done = dashboard("--project", "cells", WANDB_API_KEY="0" * 40, WANDB_BASE_URL=address)
    assert done.returncode == 0, done.stderr
    (sent,) = [sent for name, sent in calls if name == "upsertView"]
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("me", "cells", "convzoo")
    assert [s["name"] for s in json.loads(sent["spec"])["section"]["panelBankConfig"]["sections"]] == SECTIONS
    assert "me/cells" in done.stdout and "nw=abc" in done.stdout


def test_without_a_key(dashboard):
    done = dashboard()
    assert done.returncode == 2 and "wandb login" in done.stderr and "Traceback" not in done.stderr


def test_a_key_that_the_server_does_not_know(dashboard):
    with peer(viewer=None) as (address, _):
        done = dashboard(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=address)
    assert done.returncode == 2 and "me/convzoo" in done.stderr and "Traceback" not in done.stderr


def test_other_verbs_start_without_wandb():
    code = "import sys, zoo.__main__; sys.argv = ['zoo', '-h']\ntry: zoo.__main__.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('wandb', 'lightning', 'torch', 'hydra') if m in sys.modules])"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
