"""A researcher's folder (examples/own_zoo) with the installed wheel: every command of its README."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, env_in, lives
from installed import install

EXAMPLE = ROOT / "examples" / "own_zoo"
README = re.findall(r"^```sh\n(.*?)^```", (EXAMPLE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
FIRST, SWEEP, AFTERWARDS = (block.splitlines() for block in README)
CELLS = 12

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the folder, far from this clone, and the environment of one who has installed the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    python = install(folder)
    shutil.copytree(EXAMPLE, folder / "home" / "own_zoo", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    env = {key: value for key, value in env_in(folder).items() if key != "PYTHONPATH"}
    return folder / "home" / "own_zoo", env | {"PATH": f"{python.parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def run(home):
    """Types a command in the folder; returns what it said."""

    def typed(command: str, code: int = 0) -> str:
        folder, env = home
        done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return typed


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_nothing_of_the_clone_is_imported(run, home):
    places = run("python -c 'import zoo, lightning_modules; print(zoo.__file__, lightning_modules.__file__)'").split()
    assert all(place.startswith(str(home[0].parents[1] / "env")) for place in places)


@pytest.mark.parametrize("name", ["pconv", "star_relu", "pocketnet", "gradient_norm", "photos"])
def test_the_package_names_nothing_of_it(name):
    for package in ("zoo", "lightning_modules", "hydra_plugins", "conf"):
        found = subprocess.run(["grep", "-rlw", "--include=*.py", "--include=*.yaml", name, ROOT / package], text=True)
        assert found.returncode == 1


def test_its_test_its_table_and_its_cells(run, home):
    said = [run(command) for command in FIRST]
    assert "7 passed" in said[0] and "pocketnet_wide" in said[1] and "6 cells shown" in said[1]
    own, wide = (result_of(home[0] / "runs" / name) for name in ("one", "wide"))
    assert (own["cell"]["conv"], own["cell"]["act"], own["cell"]["data"]) == ("ghost", "star_relu", "photos")
    assert wide["cell"]["conv_part"] == 2 and wide["status"] == own["status"] == "completed"
    assert list(own["environment"]["plugins"]) == ["my_zoo"]
    assert "epoch 2/2" in said[2]
    assert list((home[0] / "runs" / "one" / "wandb").glob("offline-run-*/*.wandb"))
    (events,) = (home[0] / "runs" / "one" / "tensorboard").glob("events.*")
    assert b"gradient/norm" in events.read_bytes()


def test_a_killed_sweep_goes_on_where_it_was(run, home):
    folder, env = home
    sweep = folder / "runs" / "own"
    plan, start, report = SWEEP
    assert f"{CELLS} of {CELLS} jobs would run" in run(plan)

    def finished():
        return {path: path.stat().st_mtime_ns for path in sweep.glob("*/result.json")}

    first = subprocess.Popen(
        start, shell=True, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    end = time.monotonic() + 300
    while len(finished()) < 3:
        assert first.poll() is None and time.monotonic() < end, first.communicate()[0]
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for lock in sweep.glob("*/job.lock"):
        if (words := lock.read_text().split()) and lives(int(words[1])):
            os.kill(int(words[1]), signal.SIGKILL)
    before = {path: time_ns for path, time_ns in finished().items() if result_of(path.parent)["status"] == "completed"}
    said = run(start)
    assert f"{len(before)} done already" in said and f"{CELLS - len(before)} to run" in said
    assert len(finished()) == CELLS and before.items() <= finished().items()
    results = [result_of(path.parent) for path in finished()]
    assert {result["status"] for result in results} == {"completed"}
    macs = [result["metrics"]["cost/macs"] for result in results]
    assert max(macs) / min(macs) < 1.05
    assert "convzoo report runs/own" in said and f"{CELLS} completed" in run(report)
    assert "pconv" in (folder / "report.html").read_text()


def test_what_was_trained_leaves_the_folder(run, home):
    without = run(AFTERWARDS[-1].replace("my_zoo, ", ""), code=1)
    assert "needs conv=ghost, act=star_relu, the backbone pocketnet of the plugin my_zoo" in without
    assert "macs=6008896" in [run(command) for command in AFTERWARDS][-1]
    assert {path.suffix for path in (home[0] / "runs" / "one").glob("best.*")} == {".ckpt", ".onnx", ".pt2"}
